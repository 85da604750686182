"""The linear layers of the encoder with weights of 8 or 4 bits, and what is stored of a quantized model.

Patch projection, position embeddings, LayerNorms and decoder are left as they are: torchao and bitsandbytes quantize
linear layers, of which only the encoder has any.
"""

import importlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig
from transformers.utils import is_bitsandbytes_available, is_torchao_available
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..errors import SetrError
from ..text import one_line


# The library of each, and what that calls it.
QUANTIZATIONS = {
    "int8-weight-only": ("torchao", "Int8WeightOnlyConfig"),
    "int8-dynamic": ("torchao", "Int8DynamicActivationInt8WeightConfig"),
    "bnb-int8": ("bitsandbytes", "int8"),
    "bnb-nf4": ("bitsandbytes", "nf4"),
}


class OncePerMessage(logging.Filter):
    """Lets the first record of each message pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        is_first = record.getMessage() not in self.seen
        self.seen.add(record.getMessage())
        return is_first


# bitsandbytes says at each product of each layer that it computes in float16.
PRODUCTS_LOGGER = "bitsandbytes.autograd._functions"
ONCE_PER_MESSAGE = OncePerMessage()


def check_library(name: str) -> None:
    """Raises [`SetrError`] unless the library of the quantization `name` can be used here."""
    library, _ = QUANTIZATIONS[name]
    hint = f"pip install -U {library}"
    try:
        importlib.import_module(library)
        is_usable = is_torchao_available() if library == "torchao" else is_bitsandbytes_available()
    except (ImportError, OSError, RuntimeError) as error:
        reason = one_line(error, 200)
        raise SetrError(f"{name} needs {library}, which cannot be loaded ({reason}): {hint}") from error
    if not is_usable:
        raise SetrError(f"{name} needs {library} in a later version, as Transformers uses it: {hint}")


def quantization_config(name: str, dtype: str | torch.dtype = "float32") -> QuantizationConfigMixin:
    """The `quantization_config` of `from_pretrained` that quantizes the weights of linear layers.

    Args:
        name (`str`): Of torchao "int8-weight-only", weights of 8 bits that are computed with in `dtype`, or
            "int8-dynamic", products of 8 bits, for which inputs are quantized too, each token by itself (both with a
            scale for each output channel); of bitsandbytes "bnb-int8" (LLM.int8(), arXiv:2208.07339), or "bnb-nf4",
            normal floats of 4 bits with a scale for each 64 weights (QLoRA, arXiv:2305.14314, section 3).
        dtype (`str` or `torch.dtype`, *optional*, defaults to `"float32"`): What the model computes in.

    Raises:
        [`SetrError`]: its library is not installed, too old for Transformers, or cannot be loaded.
    """
    check_library(name)
    library, kind = QUANTIZATIONS[name]
    if library == "torchao":
        return TorchAoConfig(getattr(importlib.import_module("torchao.quantization"), kind)())
    logging.getLogger(PRODUCTS_LOGGER).addFilter(ONCE_PER_MESSAGE)
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=dtype)


def quantization_of(model: PreTrainedModel) -> str | None:
    """The name of a model's quantization, as in [`QUANTIZATIONS`] or like that; `None` if there is none."""
    config = getattr(model.config, "quantization_config", None)
    if config is None:
        return None
    library, kind = str(config.quant_method.value), ""
    if library == "torchao":
        kind = type(config.quant_type).__name__
    elif library == "bitsandbytes":
        kind = "int8" if config.load_in_8bit else config.bnb_4bit_quant_type
    names = {told: name for name, told in QUANTIZATIONS.items()}
    return names.get((library, kind), f"{library} {kind}".strip())


def stored_tensors(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Parameters and buffers with their names; of one that stands for several tensors, such as integers and their
    scales, each of these.
    """
    for name, tensor in model.state_dict().items():
        if hasattr(tensor, "__tensor_flatten__"):
            for part in tensor.__tensor_flatten__()[0]:
                yield f"{name}.{part}", getattr(tensor, part)
        else:
            yield name, tensor
