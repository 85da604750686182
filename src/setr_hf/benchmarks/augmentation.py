"""Augmentation of training photos, with and without reading their files, beside mmsegmentation's."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torchvision import tv_tensors
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..data.augmentation import to_tv_tensors, training_transform
from .folders import DATA_OPTIONS, data_folder, read_folder
from .measuring import MMSEG, OURS, Comparison


OPTIONS = (*DATA_OPTIONS, "size", "photo_sides")
SCALE_RANGE = (0.5, 2.0)


def ours(setting: dict[str, Any]) -> Callable[[], list[torch.Tensor]]:
    data, (short, long) = read_folder(setting["folder"]), setting["photo_sides"]
    transform = training_transform(
        (setting["size"], setting["size"]),
        SCALE_RANGE,
        {"shortest_edge": short, "longest_edge": long},
        IMAGENET_DEFAULT_MEAN,
        IMAGENET_DEFAULT_STD,
    )

    def read(row: dict) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        sample = data.read_labelled(row)
        return to_tv_tensors(sample.photo, sample.label_map)

    rows = list(data.undecoded)
    pairs = [] if setting["with_reading"] else [read(row) for row in rows]

    def run() -> list[torch.Tensor]:
        examples = map(read, rows) if setting["with_reading"] else pairs
        return [transform(image, labels)[1].long() for image, labels in examples]

    return run


CODES = {OURS: ours}


def comparisons(options: Namespace) -> Iterator[Comparison]:
    with data_folder(options) as (title, folder, first):
        for with_reading in (False, True):
            short, long = options.photo_sides
            setting = {
                "folder": str(folder),
                "with_reading": with_reading,
                "size": options.size,
                "photo_sides": (short, long),
                "scale_range": SCALE_RANGE,
                "mean": [255 * value for value in IMAGENET_DEFAULT_MEAN],
                "std": [255 * value for value in IMAGENET_DEFAULT_STD],
                "device": "cpu",
                "threads": options.threads,
            }
            yield Comparison(
                title=f"{title}, crops of {options.size}², {'with' if with_reading else 'without'} reading files",
                module=__name__,
                setting=setting,
                references=(MMSEG,),
                mmseg_code="augmentation",
                warm_up={"folder": str(first), "size": 32, "photo_sides": (32, 128)},
            )
