"""A whole model, from an image to its label map, beside plain code on Transformers' ViT and mmsegmentation."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..model.configuration_setr import DECODER_TYPES
from ..model.image_processing_setr import SetrImageProcessor
from . import plain
from .measuring import MMSEG, OURS, Comparison
from .networks import network_name, network_setting, on_device, our_model, plain_model, random_images


PLAIN = "plain PyTorch"
OPTIONS = ("decoders", "model_size", "size", "num_labels", "dtypes")


def ours(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    model, images = on_device(our_model(setting), setting), random_images(setting)
    processor, sizes = SetrImageProcessor(), [(setting["size"], setting["size"])]

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return processor.post_process_semantic_segmentation(model(images), sizes)[0]

    return run


def reference(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    model, images = on_device(plain_model(setting), setting), random_images(setting)

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return plain.resize(model(images), images.shape[-2:]).argmax(1)

    return run


CODES = {OURS: ours, PLAIN: reference}


def comparisons(options: Namespace) -> Iterator[Comparison]:
    for decoder in options.decoders or DECODER_TYPES:
        for dtype in options.dtypes or ("float32",):
            setting = network_setting(options, decoder, dtype, "large")
            yield Comparison(
                title=f"{network_name(setting)}, {options.size}²",
                module=__name__,
                setting=setting,
                references=(PLAIN, MMSEG),
                mmseg_code="inference",
                warm_up={"model_size": "tiny", "size": 64, "num_labels": 3},
            )
