"""A training step with auxiliary heads (forward, backward, SGD), beside plain code and mmsegmentation."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ..model.configuration_setr import DECODER_TYPES
from .measuring import MMSEG, OURS, Comparison
from .networks import network_name, network_setting, our_model, plain_model, random_images


PLAIN = "plain PyTorch"
OPTIONS = ("decoders", "model_size", "size", "num_labels", "batch_size", "dtypes")


def training_step(
    model: nn.Module, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], setting: dict[str, Any]
) -> Callable[[], torch.Tensor]:
    """A function that takes a step of SGD with momentum on random images; in bf16 as `--bf16` trains, by autocast."""
    device = setting["device"]
    model = model.train().to(device)
    images = random_images(setting, torch.float32)
    labels = torch.randint(setting["num_labels"], (len(images), *images.shape[-2:]), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def run() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=setting["dtype"] == "bfloat16"):
            value = loss(images, labels)
        value.backward()
        optimizer.step()
        return value

    return run


def ours(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    model = our_model(setting)
    return training_step(model, lambda images, labels: model(images, labels=labels).loss, setting)


def reference(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    model = plain_model(setting)
    return training_step(model, model.loss, setting)


CODES = {OURS: ours, PLAIN: reference}


def comparisons(options: Namespace) -> Iterator[Comparison]:
    for decoder in options.decoders or DECODER_TYPES:
        for dtype in options.dtypes or ("float32",):
            setting = network_setting(options, decoder, dtype, "base") | {"batch_size": options.batch_size}
            yield Comparison(
                title=f"{network_name(setting)}, {options.size}², batch of {options.batch_size}",
                module=__name__,
                setting=setting,
                references=(PLAIN, MMSEG),
                mmseg_code="training-step",
                warm_up={"model_size": "tiny", "size": 64, "num_labels": 3},
            )
