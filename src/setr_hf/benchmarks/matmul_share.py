"""The floating-point operations of inference and of a training step, as a share of what matrix products reach.

The operations are those of the plain network's convolutions and matrix products; what ours saves of them counts as
done, and what gradient checkpointing would repeat does not.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..model.configuration_setr import DECODER_TYPES
from . import inference, training_step
from .measuring import OURS, Comparison
from .networks import dtype_of, network_name, network_setting, plain_model, random_images


MATMUL = "matmul"
OPTIONS = ("decoders", "model_size", "size", "num_labels", "batch_size", "dtypes")


def ours(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    return (training_step if setting["is_training"] else inference).ours(setting)


def matmul(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    side = setting["matmul_side"]
    left, right = torch.randn(2, side, side, device=setting["device"], dtype=dtype_of(setting))
    return lambda: left @ right


CODES = {OURS: ours, MATMUL: matmul}


def operations(setting: dict[str, Any]) -> int:
    """Floating-point operations of a run, counted on tensors without data."""
    meta = {**setting, "device": "meta", "dtype": "float32"}
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model, images = plain_model(meta), random_images(meta)
        if setting["is_training"]:
            torch.stack([logits.sum() for logits in model.all_logits(images)]).sum().backward()
        else:
            model(images)
    return counter.get_total_flops()


def comparisons(options: Namespace) -> Iterator[Comparison]:
    side = 8192 if options.device == "cuda" else 2048
    kinds = product((False, True), options.decoders or DECODER_TYPES, options.dtypes or ("bfloat16",))
    for is_training, decoder, dtype in kinds:
        setting = network_setting(options, decoder, dtype, "base" if is_training else "large") | {
            "batch_size": options.batch_size if is_training else 1,
            "is_training": is_training,
            "matmul_side": side,
        }
        yield Comparison(
            title=f"{'training step' if is_training else 'inference'} of {network_name(setting)}",
            module=__name__,
            setting=setting,
            references=(MATMUL,),
            warm_up={"model_size": "tiny", "size": 64, "num_labels": 3, "matmul_side": 64},
            work={OURS: operations(setting), MATMUL: 2.0 * side**3},
        )
