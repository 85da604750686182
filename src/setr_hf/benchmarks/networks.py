"""The networks that benchmarks run, ours and plain ones, with random weights."""

from argparse import Namespace
from typing import Any, TypeVar

import torch
from torch import nn

from ..model.configuration_setr import SetrConfig
from ..model.modeling_setr import SetrForSemanticSegmentation
from ..model.presets_setr import vit_sizes
from .plain import Segmenter


Module = TypeVar("Module", bound=nn.Module)

MODEL_SIZES = {"large": vit_sizes(1024, 24), "base": vit_sizes(768, 12), "tiny": vit_sizes(192, 12)}
# The networks that mmsegmentation has under the same names: see `SetrConfig`.
MMSEG_NETWORKS: dict[str, dict[str, Any]] = {
    "naive": {"decoder_scale_factor": 4, "auxiliary_scale_factor": 4},
    "pup": {},
    "mla": {"mla_align_corners": False, "mla_classifier_kernel_size": 1, "mla_auxiliary_bias": True},
}


def network_setting(options: Namespace, decoder: str, dtype: str, model_size: str) -> dict[str, Any]:
    """The setting of a network that mmsegmentation has too; the encoder is of `model_size` unless the options say."""
    return {
        "model_size": options.model_size or model_size,
        "decoder": decoder,
        "is_mmseg_network": True,
        "size": options.size,
        "num_labels": options.num_labels,
        "batch_size": 1,
        "dtype": dtype,
        "device": options.device,
        "threads": options.threads,
    }


def network_name(setting: dict[str, Any]) -> str:
    network = f"{setting['decoder']}{' as mmsegmentation has it' * setting['is_mmseg_network']}"
    return f"ViT-{setting['model_size']} {network}, {setting['dtype']}"


def network_config(setting: dict[str, Any]) -> SetrConfig:
    """The network of a [`network_setting`]. The auxiliary heads of naive and PUP are three, at each quarter of the
    depth, as far as both implementations have them.
    """
    size, decoder = MODEL_SIZES[setting["model_size"]], setting["decoder"]
    depth = size["num_hidden_layers"]
    quarters = [depth // 4, depth // 2, 3 * depth // 4]
    return SetrConfig(
        **size,
        **(MMSEG_NETWORKS[decoder] if setting["is_mmseg_network"] else {}),
        decoder_type=decoder,
        auxiliary_out_indices=[*quarters, depth] if decoder == "mla" else quarters,
        num_labels=setting["num_labels"],
        image_size=setting["size"],
    )


def dtype_of(setting: dict[str, Any]) -> torch.dtype:
    return getattr(torch, setting["dtype"])


def on_device(module: Module, setting: dict[str, Any]) -> Module:
    """The module on the device and in the precision of a setting, to infer with."""
    return module.eval().requires_grad_(False).to(setting["device"], dtype_of(setting))


def our_model(setting: dict[str, Any]) -> SetrForSemanticSegmentation:
    return SetrForSemanticSegmentation(network_config(setting))


def plain_model(setting: dict[str, Any]) -> Segmenter:
    return Segmenter(network_config(setting))


def random_images(setting: dict[str, Any], dtype: torch.dtype | None = None) -> torch.Tensor:
    """Normalized images `(batch_size, 3, size, size)`."""
    shape = (setting["batch_size"], 3, setting["size"], setting["size"])
    return torch.randn(shape, device=setting["device"], dtype=dtype or dtype_of(setting))
