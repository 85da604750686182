"""A photo end to end, from its file to its label map, beside plain code and mmsegmentation."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..files import temporary_folder
from ..inference.photos import read_photo
from .measuring import MMSEG, OURS, Comparison
from .networks import network_name, network_setting, on_device, our_model, plain_model
from .photos import generated_photo, our_segmenter, plain_segmenter


PLAIN = "plain PyTorch"
OPTIONS = ("photo", "photo_sizes", "decoders", "model_size", "size", "num_labels", "dtypes")


def ours(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    segmenter = our_segmenter(on_device(our_model(setting), setting), setting)
    return lambda: segmenter(read_photo(setting["photo"]))


def reference(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    segmenter = plain_segmenter(on_device(plain_model(setting), setting), setting)
    return lambda: segmenter(Image.open(setting["photo"]).convert("RGB"))


CODES = {OURS: ours, PLAIN: reference}


def photos(options: Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    """The user's photo, or generated ones that are written to a folder, by what to call them."""
    if options.photo:
        width, height = read_photo(options.photo).size
        yield f"{options.photo.name}, {height}×{width}", options.photo
        return
    for height, width in options.photo_sizes or ((1024, 1365), (3000, 4000)):
        path = folder / f"{height}x{width}.jpg"
        generated_photo((height, width)).save(path)
        yield f"photo {height}×{width}", path


def comparisons(options: Namespace) -> Iterator[Comparison]:
    with temporary_folder() as folder:
        small = folder / "small.jpg"
        generated_photo((48, 64)).save(small)
        for title, path in photos(options, folder):
            for decoder in options.decoders or ("mla",):
                for dtype in options.dtypes or ("float32",):
                    setting = network_setting(options, decoder, dtype, "large")
                    yield Comparison(
                        title=f"{title}, {network_name(setting)}",
                        module=__name__,
                        setting=setting | {"photo": str(path), "scales": None},
                        references=(PLAIN, MMSEG),
                        mmseg_code="photo",
                        warm_up={"photo": str(small), "model_size": "tiny", "size": 32, "num_labels": 3},
                    )
