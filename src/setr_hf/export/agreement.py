"""Whether an exported model finds what the original finds."""

import math
from typing import NamedTuple

import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel

from ..errors import SetrError
from ..inference.sliding_windows import segment
from ..model.modeling_setr import SetrSemanticSegmenterOutput
from ..progress import progress_bar
from .precision import lossy_layers, one_layer_reduced
from .running import ExportedModel


class Agreement(NamedTuple):
    """Of an exported model and the original: the share of pixels of the same class in each photo, and in all."""

    of_photos: list[float]
    of_pixels: float


def label_maps(model: PreTrainedModel, processor: BaseImageProcessor, photos: list[Image.Image]) -> list[torch.Tensor]:
    return [segment(model, processor, [photo])[0] for photo in photos]


def agreement(label_maps: list[torch.Tensor], others: list[torch.Tensor]) -> Agreement:
    equal = [(one == other).double().mean().item() for one, other in zip(label_maps, others)]
    sizes = [label_map.numel() for label_map in label_maps]
    return Agreement(equal, sum(share * size for share, size in zip(equal, sizes)) / sum(sizes))


def exported_agreement(
    exported: ExportedModel, processor: BaseImageProcessor, photos: list[Image.Image], expected: list[torch.Tensor]
) -> Agreement:
    """How far the label maps of an exported model agree with those of the original; not at all in photos of which it
    computes infinite numbers.
    """
    found = []
    for photo, label_map in zip(photos, expected):
        try:
            found += label_maps(exported, processor, [photo])
        except SetrError:
            found.append(torch.full_like(label_map, -1))
    return agreement(expected, found)


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference of logits, as a share of the largest that are expected."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


@torch.inference_mode()
def largest_difference(model: PreTrainedModel, exported: ExportedModel, pixel_values: torch.Tensor) -> float:
    """The largest difference of the logits, of which the graph itself cuts the padding, as a share of the largest."""
    expected = model(pixel_values=pixel_values).logits
    found = torch.from_numpy(exported.run(pixel_values.numpy()))
    if found.shape != expected.shape:
        raise SetrError(f"the exported model returns logits of {tuple(found.shape)}, not {tuple(expected.shape)}")
    return relative_difference(found, expected)


class LayerLoss(NamedTuple):
    """What a single layer loses in a precision: the share of pixels that change their class, and the largest change of
    the logits as a share of the largest; both are infinite if they are.
    """

    pixels: float
    logits: float
    layer: str


@torch.inference_mode()
def layer_losses(
    model: PreTrainedModel, processor: BaseImageProcessor, photo: Image.Image, dtype: str
) -> list[LayerLoss]:
    """What each layer loses of the label map of a photo, in that precision by itself; the greatest loss first."""
    inputs = processor(photo, return_tensors="pt")

    def label_map(outputs: SetrSemanticSegmenterOutput) -> torch.Tensor:
        return processor.post_process_semantic_segmentation(outputs, [(photo.height, photo.width)])[0]

    expected, losses = model(**inputs), []
    layers = list(lossy_layers(model, dtype))
    for name in progress_bar(len(layers), "layer", iterable=layers):
        with one_layer_reduced(model, name, dtype):
            found = model(**inputs)
        change = relative_difference(found.logits, expected.logits)
        if math.isfinite(change):
            loss = 1 - agreement([label_map(expected)], [label_map(found)]).of_pixels
            losses.append(LayerLoss(loss, change, name))
        else:
            losses.append(LayerLoss(math.inf, math.inf, name))
    return sorted(losses, reverse=True)
