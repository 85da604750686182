"""Quantized weights beside the same model without: the time of a window, the size of the weights, and how many pixels
of photos get the same label. What cannot be loaded here is left out, and named.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..errors import SetrError
from ..files import temporary_folder
from ..inference.loading import load_model
from ..inference.photos import upright_rgb
from ..inference.quantization import QUANTIZATIONS, check_library, stored_tensors
from ..inference.segmenter import Segmenter
from ..model.image_processing_setr import SetrImageProcessor
from . import plain
from .folders import DATA_OPTIONS, data_folder, read_folder
from .measuring import OURS, Comparison
from .networks import network_name, network_setting, our_model, random_images


UNQUANTIZED = "without"
# Those of a network with random weights, in place of which `--model` names one.
NETWORK_OPTIONS = ("decoders", "model_size", "size", "num_labels")
OPTIONS = (*DATA_OPTIONS, *NETWORK_OPTIONS, "model", "quantizations", "dtypes")


def window_logits(setting: dict[str, Any], quantization: str | None) -> Callable[[], torch.Tensor]:
    model, processor = load_model(setting["model"], setting["dtype"], setting["device"], quantization)
    images = random_images({**setting, "size": processor.crop_size.height})
    return torch.inference_mode()(lambda: model(images).logits)


def ours(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    return window_logits(setting, setting["quantization"])


def reference(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    return window_logits(setting, None)


CODES = {OURS: ours, UNQUANTIZED: reference}


@contextmanager
def models(options: Namespace) -> Iterator[Iterator[tuple[str, str, dict[str, Any]]]]:
    """What to call each model, its folder or Hub id, and its setting: the user's, or new ones with random weights."""
    with temporary_folder() as folder:
        if options.model:
            setting = network_setting(options, "mla", "float32", "base")
            yield iter([(Path(options.model).name, options.model, setting)])
        else:
            yield new_models(options, folder)


def new_models(options: Namespace, folder: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    size = options.size
    for decoder in options.decoders or ("mla",):
        setting = network_setting(options, decoder, "float32", "base") | {"is_mmseg_network": False}
        torch.manual_seed(0)
        our_model(setting).save_pretrained(folder / decoder)
        stride = plain.stride_of(size)
        SetrImageProcessor(
            do_split_image=True, size={"shortest_edge": size}, crop_size=size, stride=stride, antialias=False
        ).save_pretrained(folder / decoder)
        name = network_name(setting).removesuffix(f", {setting['dtype']}")
        yield f"{name}, random weights", str(folder / decoder), setting


def label_maps(
    setting: dict[str, Any], quantization: str | None, photos: list[Image.Image]
) -> tuple[torch.Tensor, int]:
    """The labels of all pixels of the photos, and the bytes that the weights take."""
    segmenter = Segmenter(*load_model(setting["model"], setting["dtype"], setting["device"], quantization))
    labels = torch.cat([segmenter([photo])[0].flatten() for photo in photos])
    return labels, sum(tensor.nbytes for _, tensor in stored_tensors(segmenter.model))


def facts(setting: dict[str, Any], photos: list[Image.Image], expected: torch.Tensor, num_bytes: int) -> dict:
    labels, quantized_bytes = label_maps(setting, setting["quantization"], photos)
    return {
        "weights, MB": round(quantized_bytes / 1e6, 1),
        "share of those without": round(quantized_bytes / num_bytes, 3),
        "label agreement": round((labels == expected).double().mean().item(), 5),
    }


def usable(names: list[str]) -> list[str]:
    """Those of the quantizations that can be loaded here; says of the others why not."""
    found = []
    for name in names:
        try:
            check_library(name)
        except SetrError as error:
            print(f"not measured: {error}", file=sys.stderr)
        else:
            found.append(name)
    return found


def comparisons(options: Namespace) -> Iterator[Comparison]:
    names = usable(options.quantizations or list(QUANTIZATIONS))
    if not names:
        return
    with data_folder(options) as (photos_title, folder, _), models(options) as found:
        read = (sample.photo for sample in read_folder(str(folder)))
        photos = [upright_rgb(photo) for photo in read if isinstance(photo, Image.Image)]
        for title, path, setting in found:
            for dtype in options.dtypes or ("float32",):
                setting = setting | {"model": path, "dtype": dtype}
                expected, num_bytes = label_maps(setting, None, photos)
                for name in names:
                    quantized = setting | {"quantization": name}
                    yield Comparison(
                        title=f"{name}, {title}, {dtype}, {photos_title}",
                        module=__name__,
                        setting=quantized,
                        references=(UNQUANTIZED,),
                        facts=partial(facts, quantized, photos, expected, num_bytes),
                    )
