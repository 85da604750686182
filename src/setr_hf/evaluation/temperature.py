"""The temperature at which a model is as sure as it is often right."""

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from transformers.utils import IMAGE_PROCESSOR_NAME

from ..data.rows import SegmentationData
from ..errors import SetrError
from ..files import whole_file
from ..inference.loading import read_object
from ..inference.segmenter import Segmenter
from ..model.confidence_setr import confidence_of
from ..model.image_processing_setr import IGNORED_LABEL
from ..model.label_maps_setr import ScoreTile
from ..progress import progress_bar
from ..text import printable
from .reliability import NUM_BINS, bins_of, expected_calibration_error


# So many numbers are kept of all photos together, 64 MB.
MOST_SCORES = 2**24
PIXELS_AT_ONCE = 2**16
LOWEST, HIGHEST = 0.01, 100.0
NUM_HALVINGS = 24


class LabelledScores(NamedTuple):
    """A sample of the labelled pixels of some photos.

    Args:
        scores (`torch.FloatTensor` of shape `(num_pixels, num_labels)`): Finite logits.
        labels (`torch.LongTensor` of shape `(num_pixels,)`): The true class of each pixel.
        weights (`torch.DoubleTensor` of shape `(num_pixels,)`): How many labelled pixels each stands for.
    """

    scores: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor

    def weighted_mean(self, values: torch.Tensor) -> float:
        """The mean of a value for each pixel, `(num_pixels,)`."""
        return float((values * self.weights).sum() / self.weights.sum())


def sample_scores(
    tiles: Iterable[ScoreTile], label_map: np.ndarray, num_labels: int, count: int, seed: int
) -> LabelledScores:
    """The scores of at most `count` labelled pixels of a photo, drawn without replacement, from the `tiles` of its
    scores. `label_map` is the true one, of shape `(height, width)`.
    """
    labelled = np.flatnonzero(label_map != IGNORED_LABEL)
    drawn = np.random.default_rng(seed).permutation(labelled)[:count]
    places = np.full(label_map.shape, -1)
    places.flat[drawn] = np.arange(len(drawn))
    scores = torch.empty(len(drawn), num_labels)
    for rows, columns, tile in tiles:
        part = torch.from_numpy(places[rows, columns])
        is_drawn = part >= 0
        scores[part[is_drawn]] = tile[is_drawn.to(tile.device)].cpu()
    labels = torch.from_numpy(label_map.flat[drawn].astype(np.int64))
    weights = torch.full((len(drawn),), len(labelled) / max(1, len(drawn)), dtype=torch.float64)
    return LabelledScores(scores, labels, weights)


def labelled_scores(
    segmenter: Segmenter, data: SegmentationData, limit: int | None = None, skip_bad_samples: bool = False
) -> LabelledScores:
    """The scores of labelled pixels of the first `limit` photos, or all, the same number of each that has so many.

    Raises:
        [`SetrError`]: a sample cannot be used, unless `skip_bad_samples` is set, which names it instead; or none has a
            labelled pixel.
    """
    indices = range(len(data) if limit is None else min(limit, len(data)))
    num_labels = len(data.label_set.names)
    count = max(1, MOST_SCORES // (num_labels * max(1, len(indices))))
    samples = []
    with progress_bar(len(indices), "image") as progress:
        for index in indices:
            try:
                sample = data.read_labelled(data.undecoded[index])
                tiles = segmenter.score_tiles(sample.photo)
                samples.append(sample_scores(tiles, sample.label_map, num_labels, count, seed=index))
            except SetrError as error:
                if not skip_bad_samples:
                    raise SetrError(f"{error}. Repair it, or leave it out with --skip-bad-samples") from error
                print(f"bad sample: {printable(error)}", file=sys.stderr)
            progress.update()
    scores, labels, weights = (torch.cat(parts) for parts in zip(*samples)) if samples else (torch.empty(0),) * 3
    if not len(labels):
        raise SetrError("no temperature can be fitted: no sample has a labelled pixel")
    return LabelledScores(scores, labels, weights)


def slope(pixels: LabelledScores, temperature: float) -> float:
    """The derivative of [`negative_log_likelihood`] by 1 / temperature: how far the scores that are expected lie above
    those of the true classes.
    """
    expected = torch.cat(
        [(part.div(temperature).softmax(-1) * part).sum(-1) for part in pixels.scores.split(PIXELS_AT_ONCE)]
    )
    return pixels.weighted_mean(expected - pixels.scores.gather(-1, pixels.labels[:, None])[:, 0])


def negative_log_likelihood(pixels: LabelledScores, temperature: float) -> float:
    """The mean of −log softmax(scores / temperature) of the true classes, in nats."""
    parts = zip(pixels.scores.split(PIXELS_AT_ONCE), pixels.labels.split(PIXELS_AT_ONCE))
    losses = [F.cross_entropy(scores / temperature, labels, reduction="none") for scores, labels in parts]
    return pixels.weighted_mean(torch.cat(losses))


def calibration_error(pixels: LabelledScores, temperature: float) -> float:
    """The [`expected_calibration_error`], 0 to 1."""
    confidence = torch.cat([confidence_of(part, temperature) for part in pixels.scores.split(PIXELS_AT_ONCE)]).numpy()
    correct = (pixels.scores.argmax(-1) == pixels.labels).numpy()
    bins, weights = bins_of(confidence), pixels.weights.numpy()
    return expected_calibration_error(
        *(np.bincount(bins, weights * value, NUM_BINS) for value in (1, correct, confidence))
    )


def fit_temperature(pixels: LabelledScores) -> float:
    """The temperature, to five digits, of the least [`negative_log_likelihood`] (Guo et al., "On Calibration of Modern
    Neural Networks", section 4.2). That is convex in 1 / temperature: halving an interval finds where its slope is 0.

    Raises:
        [`SetrError`]: no temperature from 0.01 to 100 is best, since the classes of the highest scores are all right,
            or no better than chance.

    Example:

    ```python
    >>> import torch
    >>> from setr_hf.evaluation.temperature import LabelledScores, fit_temperature

    >>> scores = torch.tensor([[4.0, 0.0]] * 4)  # sure of class 0, which is right three times of four
    >>> temperature = fit_temperature(LabelledScores(scores, torch.tensor([0, 0, 0, 1]), torch.ones(4)))
    >>> temperature, round(float((scores[0] / temperature).softmax(-1)[0]), 3)
    (3.641, 0.75)
    ```
    """
    if slope(pixels, LOWEST) <= 0:
        raise SetrError("no temperature fits: the model chooses the right class in all pixels, however sure it is")
    if slope(pixels, HIGHEST) >= 0:
        raise SetrError("no temperature fits: the classes that the model chooses are no better than chance")
    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        is_too_sure = slope(pixels, math.exp(middle)) > 0
        low, high = (middle, high) if is_too_sure else (low, middle)
    return float(f"{math.exp(middle):.5g}")


def save_temperature(folder: Path, temperature: float) -> None:
    """Writes the temperature into the image processor's file of a model's folder, where all else stays as it is."""
    path = folder / IMAGE_PROCESSOR_NAME
    content = {**read_object(path), "temperature": temperature}
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
