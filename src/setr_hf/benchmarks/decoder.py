"""A decoder alone, from feature maps to its logits, beside plain code and mmsegmentation's."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from ..model.configuration_setr import DECODER_TYPES, SetrConfig
from ..model.modeling_setr import SetrMlaHead, SetrUpsampleHead
from . import plain
from .measuring import MMSEG, OURS, Comparison
from .networks import dtype_of, network_config, network_name, network_setting, on_device


PLAIN = "plain PyTorch"
OPTIONS = ("decoders", "model_size", "size", "num_labels", "dtypes")


def feature_maps(config: SetrConfig, setting: dict[str, Any]) -> list[torch.Tensor]:
    """Four random maps on the patch grid, of which naive and PUP read the last."""
    side = setting["size"] // config.patch_size
    shape = (4, 1, config.hidden_size, side, side)
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return list(maps.to(setting["device"], dtype_of(setting)))


def our_decoder(config: SetrConfig) -> nn.Module:
    """The decoder with random weights, always the same; running statistics are made to count."""
    torch.manual_seed(0)
    if config.decoder_type == "mla":
        head: nn.Module = SetrMlaHead(config)
    else:
        head = SetrUpsampleHead(config, config.decoder_num_convs, config.decoder_scale_factor)
    for name, buffer in head.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return head


def ours(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    config = network_config(setting)
    head, maps = on_device(our_decoder(config), setting), feature_maps(config, setting)
    if setting["decoder"] == "mla":
        return torch.inference_mode()(lambda: head(maps, output_auxiliary_logits=False)[0])
    return torch.inference_mode()(lambda: head(maps[-1]))


def reference(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    config = network_config(setting)
    head, maps = plain.decoder(config), feature_maps(config, setting)
    head.load_state_dict(our_decoder(config).state_dict())
    head = on_device(head, setting)
    return torch.inference_mode()(lambda: head(maps if setting["decoder"] == "mla" else maps[-1]))


CODES = {OURS: ours, PLAIN: reference}


def facts(setting: dict[str, Any]) -> dict[str, Any]:
    """Resolution of the logits, and the largest difference from plain code relative to the largest logit, after the
    lower ones have been resized, in fp32.
    """
    setting = {**setting, "dtype": "float32"}
    logits, expected = ours(setting)(), reference(setting)()
    resized = plain.resize(logits, expected.shape[-2:])
    return {
        "logits": f"{logits.shape[-1]}², plain {expected.shape[-1]}²",
        "difference": ((resized - expected).abs().max() / expected.abs().max()).item(),
    }


def comparisons(options: Namespace) -> Iterator[Comparison]:
    for is_mmseg_network in (False, True) if options.mmseg_python else (False,):
        for decoder in options.decoders or DECODER_TYPES:
            for dtype in options.dtypes or ("float32", "bfloat16"):
                setting = network_setting(options, decoder, dtype, "large") | {"is_mmseg_network": is_mmseg_network}
                yield Comparison(
                    title=f"of {network_name(setting)}, {options.size}²",
                    module=__name__,
                    setting=setting,
                    references=(PLAIN, MMSEG) if is_mmseg_network else (PLAIN,),
                    mmseg_code="decoder",
                    warm_up={"model_size": "tiny", "size": 64, "num_labels": 3},
                    facts=partial(facts, setting),
                )
