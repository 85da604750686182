"""The encoder alone, beside Transformers' ViT of the same size."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..model.modeling_setr import SetrModel
from . import plain
from .measuring import OURS, Comparison
from .networks import network_config, network_setting, on_device, random_images


VIT = "ViTModel"
OPTIONS = ("model_size", "size", "dtypes")


def ours(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    model, images = on_device(SetrModel(network_config(setting)), setting), random_images(setting)
    return torch.inference_mode()(lambda: model(images).last_hidden_state)


def reference(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    model, images = on_device(plain.vit(network_config(setting)), setting), random_images(setting)
    return torch.inference_mode()(lambda: model(images).last_hidden_state)


CODES = {OURS: ours, VIT: reference}


def comparisons(options: Namespace) -> Iterator[Comparison]:
    for dtype in options.dtypes or ("float32", "bfloat16"):
        setting = network_setting(options, "naive", dtype, "large")  # With the class token that a ViT has.
        yield Comparison(
            title=f"ViT-{setting['model_size']}, {dtype}, {options.size}²",
            module=__name__,
            setting=setting,
            references=(VIT,),
            warm_up={"model_size": "tiny", "size": 64},
        )
