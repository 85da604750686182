"""How sure a model is of the class that it chooses for a pixel."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from .label_maps_setr import ScoreTile


# Far beyond what models need, and so far from 0 that no score divided by it is NaN.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.001, 1000


def check_temperature(temperature: Any) -> None:
    """Raises `ValueError` unless `temperature` is a number within the limits."""
    is_number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not is_number or not LOWEST_TEMPERATURE <= temperature <= HIGHEST_TEMPERATURE:
        raise ValueError(
            f"temperature must be a number from {LOWEST_TEMPERATURE} to {HIGHEST_TEMPERATURE}, got {temperature!r}"
        )


def logits_of(scores: torch.Tensor, are_probabilities: bool = False) -> torch.Tensor:
    """Finite logits of all classes, `(..., num_labels)`, whose softmax at temperature 1 is what the `scores` of a tile
    stand for: logits or, if so, probabilities. The one score of a binary model is that of class 1, the foreground, and
    becomes two: (0, z).
    """
    if scores.shape[-1] == 1:
        scores = scores.logit(eps=torch.finfo(scores.dtype).eps) if are_probabilities else scores
        return F.pad(scores, (1, 0))
    return scores.clamp_min(torch.finfo(scores.dtype).tiny).log() if are_probabilities else scores


def confidence_of(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """The largest probability in softmax(logits / temperature), 0 to 1, of `(..., num_labels)` (Guo et al., "On
    Calibration of Modern Neural Networks", equation 9). A temperature above 1 makes the model less sure, one below 1
    more.
    """
    below_best = logits - logits.amax(-1, keepdim=True)
    return below_best.div_(temperature).exp_().sum(-1).reciprocal_()


def measured(
    tiles: Iterator[ScoreTile], confidence: torch.Tensor, temperature: float, are_probabilities: bool = False
) -> Iterator[ScoreTile]:
    """The same tiles, of which the confidence is written to `confidence` of shape `(height, width)` as they pass; see
    [`logits_of`] and [`confidence_of`].
    """
    for rows, columns, scores in tiles:
        confidence[rows, columns] = confidence_of(logits_of(scores, are_probabilities), temperature)
        yield rows, columns, scores
