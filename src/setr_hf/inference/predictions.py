"""What a model has found in a photo, and where it was sure enough."""

from typing import NamedTuple

import numpy as np
import torch

from ..model.image_processing_setr import IGNORED_LABEL
from ..model.photos_setr import Photo
from .arguments import ConfidenceArguments


class Prediction(NamedTuple):
    """A photo and its predicted label map.

    Args:
        photo (`PIL.Image.Image` or `np.ndarray` of shape `(height, width, bands)`): Upright.
        label_map (`np.ndarray` of shape `(height, width)`): Class ids, uint8 if they fit, else uint16.
        no_class (`int`, *optional*): What stands in the label map where the model was not sure enough of a class.
        confidence (`np.ndarray` of shape `(height, width)`, *optional*): How sure it was of each pixel's class,
            float32, 0 to 1, if that is asked for.
    """

    photo: Photo
    label_map: np.ndarray
    no_class: int | None = None
    confidence: np.ndarray | None = None


def no_class_of(num_classes: int) -> int:
    """What stands in a label map for no class: 255 or, if that is the id of a class, 65535."""
    return IGNORED_LABEL if num_classes <= IGNORED_LABEL else 65535


def prediction_of(
    photo: Photo,
    label_map: torch.Tensor,
    confidence: torch.Tensor | None,
    num_classes: int,
    options: ConfidenceArguments,
) -> Prediction:
    """What is written of a photo, from what [`segment`] returns for it; `confidence` only if the `options` need it."""
    ids, no_class = label_map.numpy(), None
    if confidence is not None and options.ignore_below is not None:
        no_class = no_class_of(num_classes)
        ids = np.where(confidence.numpy() < options.ignore_below, no_class, ids)
    is_8_bit = max(num_classes - 1, no_class or 0) <= 255
    shown = confidence.numpy() if confidence is not None and options.confidence else None
    return Prediction(photo, ids.astype(np.uint8 if is_8_bit else np.uint16), no_class, shown)
