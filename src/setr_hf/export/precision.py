"""Models in less than float32, a layer at a time or whole."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization


DTYPES = ("float32", "float16", "int8")


class Int8Weight(nn.Module):
    """A weight as whole numbers from −127 to 127, and a scale for each output channel, its first axis."""

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        largest = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
        scale = largest.clamp(min=torch.finfo(weight.dtype).tiny * 127) / 127
        return (weight / scale).round().to(torch.int8), scale

    def forward(self, numbers: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return numbers.to(scale.dtype) * scale


def cast_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(part.half() if isinstance(part, torch.Tensor) else part for part in inputs)


def cast_output(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
    return output.float()


def lossy_layers(model: nn.Module, dtype: str) -> dict[str, nn.Module]:
    """The layers of a model that a precision changes, by their names: those with a weight; of int8, only linear layers
    and convolutions.
    """
    kinds = (nn.Linear, nn.Conv2d) if dtype == "int8" else nn.Module
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, kinds) and isinstance(getattr(layer, "weight", None), torch.Tensor)
    }


def reduced_layer(layer: nn.Module, dtype: str) -> nn.Module:
    """A copy of a layer in a precision, which takes and gives float32."""
    layer = copy.deepcopy(layer).requires_grad_(False)
    if dtype == "int8":
        register_parametrization(layer, "weight", Int8Weight())
        return layer
    layer.half()
    layer.register_forward_pre_hook(cast_inputs)
    layer.register_forward_hook(cast_output)
    return layer


def reduced(model: nn.Module, dtype: str) -> nn.Module:
    """A model in a precision: float16 throughout; or int8, its weights in that, and computed with in float32."""
    if dtype == "float32":
        return model
    model = copy.deepcopy(model).requires_grad_(False)
    if dtype == "float16":
        return model.half()
    for layer in lossy_layers(model, dtype).values():
        register_parametrization(layer, "weight", Int8Weight())
    return model


@contextmanager
def one_layer_reduced(model: nn.Module, name: str, dtype: str) -> Iterator[None]:
    """Puts a layer of a model in a precision, until the end of the block."""
    parent_name, _, child = name.rpartition(".")
    parent, layer = model.get_submodule(parent_name), model.get_submodule(name)
    setattr(parent, child, reduced_layer(layer, dtype))
    try:
        yield
    finally:
        setattr(parent, child, layer)
