"""A decoder alone, from feature maps to its logits, beside plain code and mmsegmentation's."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from ..model.configuration_setr import DECODER_TYPES, SetrConfig
from ..model.modeling_setr import SetrForSemanticSegmentation
from . import plain
from .measuring import MMSEG, OURS, Comparison
from .networks import MMSEG_NETWORKS, MODEL_SIZES, dtype_of, on_device


PLAIN = "plain PyTorch"
OPTIONS = ("decoders", "model_size", "size", "num_labels", "dtypes")


def decoder_config(setting: dict[str, Any]) -> SetrConfig:
    """A network of four layers: the encoder plays no part."""
    decoder = setting["decoder"]
    fields = MMSEG_NETWORKS[decoder] if setting["is_mmseg_network"] else {}
    return SetrConfig(
        **{**MODEL_SIZES[setting["model_size"]], "num_hidden_layers": 4},
        **fields,
        decoder_type=decoder,
        image_size=setting["size"],
        num_labels=setting["num_labels"],
    )


def feature_maps(setting: dict[str, Any]) -> list[torch.Tensor]:
    """Four random maps on the patch grid, of which naive and PUP read the last."""
    width, side = MODEL_SIZES[setting["model_size"]]["hidden_size"], setting["size"] // 16
    shape = (4, 1, width, side, side)
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return list(maps.to(setting["device"], dtype_of(setting)))


def ours(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    torch.manual_seed(0)
    head = on_device(SetrForSemanticSegmentation(decoder_config(setting)).decode_head, setting)
    maps = feature_maps(setting)
    if setting["decoder"] == "mla":
        return torch.inference_mode()(lambda: head(maps, output_auxiliary_logits=False)[0])
    return torch.inference_mode()(lambda: head(maps[-1]))


def reference(setting: dict[str, Any]) -> Callable[[], torch.Tensor]:
    config, maps = decoder_config(setting), feature_maps(setting)
    head = plain.decoder(config)
    if setting["dtype"] == "float32":
        torch.manual_seed(0)
        head.load_state_dict(SetrForSemanticSegmentation(config).decode_head.state_dict())
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
                setting = {
                    "decoder": decoder,
                    "is_mmseg_network": is_mmseg_network,
                    "model_size": options.model_size or "large",
                    "size": options.size,
                    "num_labels": options.num_labels,
                    "dtype": dtype,
                    "device": options.device,
                    "threads": options.threads,
                }
                yield Comparison(
                    title=f"{decoder}{' as mmsegmentation has it' * is_mmseg_network}, {dtype}, {options.size}²",
                    module=__name__,
                    setting=setting,
                    references=(PLAIN, MMSEG) if is_mmseg_network else (PLAIN,),
                    mmseg_code="decoder",
                    warm_up={"model_size": "tiny", "size": 64, "num_labels": 3},
                    facts=partial(facts, setting),
                )
