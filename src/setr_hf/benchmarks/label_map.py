"""Logits of sliding windows to a label map, beside scores of all classes at the photo's size."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from PIL import Image

from ..model.image_processing_setr import SetrImageProcessor
from ..model.modeling_setr import SetrSemanticSegmenterOutput
from . import plain
from .measuring import OURS, Comparison


PLAIN = "interpolate + argmax"
OPTIONS = ("logits", "photo_sizes", "size", "num_labels")
# Of the last, the scores of 150 classes are 7 GB.
PHOTO_SIZES = ((512, 683), (1024, 1365), (2000, 2667), (3000, 4000))


def inputs(setting: dict[str, Any]) -> tuple[SetrImageProcessor, SetrSemanticSegmenterOutput, tuple[int, int]]:
    """An image processor, random logits of a photo's windows as a model returns them, and the photo's size."""
    size, side = setting["size"], setting["logits"]
    height, width = setting["photo_size"]
    processor = SetrImageProcessor(
        do_split_image=True, size={"shortest_edge": size}, crop_size=size, stride=plain.stride_of(size)
    )
    offsets = processor(Image.new("RGB", (width, height)), return_tensors="pt")["patch_offsets"]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, offsets.shape[1], setting["num_labels"], side, side, generator=generator)
    outputs = SetrSemanticSegmenterOutput(logits=logits.to(setting["device"]), patch_offsets=offsets)
    return processor, outputs, (height, width)


def ours(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    processor, outputs, size = inputs(setting)
    return lambda: processor.post_process_semantic_segmentation(outputs, [size])[0]


def reference(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    _, outputs, size = inputs(setting)
    offsets = outputs.patch_offsets[0].tolist()
    return lambda: plain.merged_scores(outputs.logits[0], offsets, size).argmax(0)


CODES = {OURS: ours, PLAIN: reference}


def facts(setting: dict[str, Any]) -> dict[str, Any]:
    return {"equal labels": (ours(setting)() == reference(setting)()).double().mean().item()}


def comparisons(options: Namespace) -> Iterator[Comparison]:
    for side in options.logits or (32, 128):
        for height, width in options.photo_sizes or PHOTO_SIZES:
            setting = {
                "logits": side,
                "photo_size": (height, width),
                "size": options.size,
                "num_labels": options.num_labels,
                "device": options.device,
                "threads": options.threads,
            }
            yield Comparison(
                title=f"logits {side}² a window, photo {height}×{width}, {options.num_labels} classes",
                module=__name__,
                setting=setting,
                references=(PLAIN,),
                warm_up={"logits": 8, "photo_size": (48, 64), "size": 32, "num_labels": 3},
                facts=partial(facts, setting),
            )
