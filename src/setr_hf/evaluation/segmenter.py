"""A model as an evaluation uses it: with its image processor and test protocol."""

from dataclasses import dataclass

import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel

from ..data.label_sets import LabelSet, check_classes
from ..data.public_datasets import published_scales
from ..errors import SetrError
from ..inference.loading import load_model
from ..inference.sliding_windows import check_multi_scale, segment
from .arguments import EvaluationArguments


@dataclass(frozen=True)
class Segmenter:
    """A model with its image processor and the `scales` of the multi-scale protocol; called as [`segment`] is."""

    model: PreTrainedModel
    processor: BaseImageProcessor
    scales: tuple[float, ...] | None = None
    window_batch_size: int = 32

    def __call__(self, photos: list[Image.Image]) -> list[torch.Tensor]:
        return segment(self.model, self.processor, photos, self.scales, self.window_batch_size)


def load_segmenter(
    path: str,
    label_set: LabelSet,
    arguments: EvaluationArguments,
    device: str | torch.device = "cpu",
    scales: list[float] | None = None,
) -> Segmenter:
    """The model of a folder or Hub id and its test protocol; `scales` are those of the multi-scale one, by default the
    published ones. Raises [`SetrError`] if the model cannot be loaded or has other classes than the data set, or its
    image processor does not cut the windows that several scales need.
    """
    model, processor = load_model(path, arguments.dtype, device)
    try:
        check_classes(model.config, label_set)
    except SetrError as error:
        raise SetrError(f"{path}: {error}") from error
    if arguments.protocol == "single":
        return Segmenter(model, processor, None, arguments.window_batch_size)
    ratios = tuple(scales or published_scales(model.config.dataset, model.config.decoder_type))
    check_multi_scale(processor, ratios)
    return Segmenter(model, processor, ratios, arguments.window_batch_size)
