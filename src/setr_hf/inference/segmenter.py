"""A model as jobs use it: with its image processor and test protocol."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from transformers import BaseImageProcessor, PreTrainedModel

from ..errors import SetrError
from ..model.confidence_setr import logits_of
from ..model.label_maps_setr import ScoreTile
from ..model.photos_setr import Photo
from .arguments import WINDOW_BATCH_SIZE, ConfidenceArguments
from .predictions import Prediction, prediction_of
from .quantization import quantization_of
from .settings import model_settings
from .sliding_windows import check_multi_scale, full_memory_named, photo_tiles, segment


Group = TypeVar("Group")
Read = TypeVar("Read")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Segmenter:
    """A model with its image processor and the `scales` of the multi-scale protocol; called as [`segment`] is. Raises
    [`SetrError`] if the image processor does not cut the windows that several scales need.
    """

    model: PreTrainedModel
    processor: BaseImageProcessor
    scales: tuple[float, ...] | None = None
    window_batch_size: int = WINDOW_BATCH_SIZE

    def __post_init__(self) -> None:
        if self.scales is not None:
            check_multi_scale(self.processor, self.scales)

    def __call__(self, photos: Sequence[Photo]) -> list[torch.Tensor]:
        return segment(self.model, self.processor, photos, self.scales, self.window_batch_size)

    def with_confidence(self, photos: Sequence[Photo]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The label map of each photo, and the confidence in it; see [`segment`]."""
        return segment(self.model, self.processor, photos, self.scales, self.window_batch_size, return_confidence=True)

    def predict(self, photos: Sequence[Photo], options: ConfidenceArguments) -> list[Prediction]:
        """What is found in each photo; the confidence in it is computed only if the `options` need it."""
        results: list[tuple[torch.Tensor, torch.Tensor | None]]
        if options.need_confidence:
            results = [*self.with_confidence(photos)]
        else:
            results = [(label_map, None) for label_map in self(photos)]
        num_classes = len(self.model.config.id2label)
        return [prediction_of(photo, *result, num_classes, options) for photo, result in zip(photos, results)]

    def score_tiles(self, photo: Photo) -> Iterator[ScoreTile]:
        """Tiles of the logits of all classes of an upright photo, RGB or of as many bands as the model takes; of
        averaged probabilities, see [`logits_of`].
        """
        with full_memory_named([photo]):
            [tiles] = photo_tiles(self.model, self.processor, [photo], self.scales, self.window_batch_size)
            for rows, columns, scores in tiles:
                yield rows, columns, logits_of(scores, are_probabilities=self.scales is not None)

    def settings(self) -> dict:
        """All that a label map depends on; batch sizes, devices and threads change rounding and, rarely, a pixel."""
        return {
            "protocol": "single" if self.scales is None else "multi",
            "scales": None if self.scales is None else list(self.scales),
            "mirrored": self.scales is not None,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "quantization": quantization_of(self.model),
            **model_settings(self.model, self.processor),
        }


def segment_each(
    segmenter: Callable[[Sequence[Photo]], Iterable[Result]], photos: Sequence[Photo]
) -> list[Result | SetrError]:
    """What `segmenter` returns for each photo, or why it cannot be segmented. Photos are segmented together and, if
    that fails, one by one: a bad one spoils no other, and memory that is too small for all may do for each.
    """
    try:
        return [*segmenter(photos)]
    except SetrError as error:
        if len(photos) == 1:
            return [error]
    return [result for photo in photos for result in segment_each(segmenter, [photo])]


def read_ahead(read: Callable[[Group], Read], groups: Sequence[Group]) -> Iterator[Read]:
    """What `read` returns for each group, called while the one before it is being segmented."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        upcoming = pool.submit(read, groups[0]) if groups else None
        for following in [*groups[1:], None]:
            if upcoming is not None:
                samples = upcoming.result()
                upcoming = pool.submit(read, following) if following is not None else None
                yield samples
