"""The training loss and its gradient, beside that of logits resized to the labels."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from ..model.losses_setr import segmentation_loss
from . import plain
from .measuring import OURS, Comparison


PLAIN = "interpolate + cross_entropy"
OPTIONS = ("logits", "size", "num_labels", "batch_size")
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def our_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return segmentation_loss(logits, labels, (labels.shape[-2], labels.shape[-1]), ignore_index=255)


def inputs(setting: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random logits, and label maps in which 1 pixel of 20 is ignored."""
    generator = torch.Generator().manual_seed(0)
    batch_size, num_labels, side, size = (setting[name] for name in ("batch_size", "num_labels", "logits", "size"))
    logits = torch.randn(batch_size, num_labels, side, side, generator=generator)
    labels = torch.randint(num_labels, (batch_size, size, size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.05] = 255
    return logits.to(setting["device"]).requires_grad_(), labels.to(setting["device"])


def gradient(loss: Loss, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss(logits, labels), logits)[0]


def build(loss: Loss, setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    logits, labels = inputs(setting)
    return lambda: gradient(loss, logits, labels)


CODES = {
    OURS: lambda setting: build(our_loss, setting),
    PLAIN: lambda setting: build(plain.loss, setting),
}


def facts(setting: dict[str, Any]) -> dict[str, Any]:
    logits, labels = inputs(setting)
    ours, again = (gradient(our_loss, logits, labels) for _ in range(2))
    theirs = gradient(plain.loss, logits, labels)
    return {
        "gradient difference": ((ours - theirs).abs().max() / theirs.abs().max()).item(),
        "equal bits run to run": torch.equal(ours, again),
    }


def comparisons(options: Namespace) -> Iterator[Comparison]:
    for side in options.logits or (32, 128, 256):
        setting = {
            "logits": side,
            "size": options.size,
            "num_labels": options.num_labels,
            "batch_size": options.batch_size,
            "device": options.device,
            "threads": options.threads,
        }
        yield Comparison(
            title=f"logits {side}² to {options.size}², {options.num_labels} classes, batch of {options.batch_size}",
            module=__name__,
            setting=setting,
            references=(PLAIN,),
            warm_up={"logits": 4, "size": 16, "num_labels": 3},
            facts=partial(facts, setting),
        )
