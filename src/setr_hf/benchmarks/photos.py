"""What the cases on photos share: photos of any size, and the segmenting of one, by ours and by plain code."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..data.scenes import draw_scene
from ..inference.sliding_windows import segment
from ..model.image_processing_setr import SetrImageProcessor
from ..model.modeling_setr import SetrForSemanticSegmentation
from . import plain
from .networks import dtype_of


def generated_photo(size: tuple[int, int]) -> Image.Image:
    """A street scene of a height and width in pixels."""
    return draw_scene(0)[0].resize((size[1], size[0]), Image.Resampling.BICUBIC)


def our_segmenter(
    model: SetrForSemanticSegmentation, setting: dict[str, Any]
) -> Callable[[Image.Image], torch.Tensor]:
    """A function that makes the label map of a photo by the setting's `scales`, `None` for one."""
    size, scales = setting["size"], setting["scales"]
    processor = SetrImageProcessor(
        do_split_image=True,
        size={"shortest_edge": size},
        crop_size=size,
        stride=plain.stride_of(size),
        antialias=False,
    )
    return lambda photo: segment(model, processor, [photo], None if scales is None else tuple(scales))[0]


def plain_segmenter(
    model: nn.Module | Callable[[torch.Tensor], torch.Tensor], setting: dict[str, Any]
) -> Callable[[Image.Image], torch.Tensor]:
    """As [`our_segmenter`], in plain PyTorch, for a model that makes logits of windows."""
    size, device, dtype = setting["size"], setting["device"], dtype_of(setting)
    scales = None if setting["scales"] is None else tuple(setting["scales"])
    return lambda photo: plain.segment(model, photo, size, scales, device, dtype)
