"""Cheap functions computed again in the backward pass, instead of keeping what they returned."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks


Function = Callable[[torch.Tensor], torch.Tensor]


class View(NamedTuple):
    """How a tensor sees the memory of an output."""

    size: torch.Size
    stride: tuple[int, ...]


def others_have_hooks() -> bool:
    """Whether there are hooks that ours would take the place of; torch has no public way to ask."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is not None and getattr(hooks[0], "__module__", None) != __name__


def others_decide() -> bool:
    """Whether nothing is kept for a backward pass, or others decide on what is: `torch.compile`, gradient
    checkpointing, offloading.
    """
    return torch.compiler.is_compiling() or not torch.is_grad_enabled() or others_have_hooks()


@contextmanager
def recomputed(output: torch.Tensor, function: Function, input: torch.Tensor) -> Iterator[None]:
    """Operators that run inside do not keep `output` for their backward pass, but compute `function(input)` again.

    It pays if the function is quick, and keeps its input anyway for a backward pass of its own: in a transformer layer
    normalization and activation, whose outputs are more than a third of what is kept. The gradients are the same to
    the bit.

    It does nothing where [`others_decide`].

    Args:
        output (`torch.Tensor`): What the function has returned, not a view of something else.
        function (`Callable`): Without randomness, and without effects besides its result.
        input (`torch.Tensor`): Its argument, which is not to be changed in place.
    """
    if others_decide():
        yield
        return
    reference, input = weakref.ref(output), input.detach()

    def pack(tensor: torch.Tensor) -> torch.Tensor | View:
        whole = tensor if tensor._base is None else tensor._base
        is_output = whole is reference() and tensor.numel() == whole.numel()
        return View(tensor.size(), tensor.stride()) if is_output else tensor

    def unpack(packed: torch.Tensor | View) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        with torch.no_grad():
            return function(input).as_strided(*packed)

    with saved_tensors_hooks(pack, unpack):
        yield


class Rectified(torch.autograd.Function):
    """ReLU in the place of what a function has returned; both are computed again in the backward pass."""

    @staticmethod
    def forward(ctx, output, function, input):  # type: ignore
        ctx.function = function
        ctx.save_for_backward(input)
        ctx.mark_dirty(output)
        return output.relu_()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore
        (input,) = ctx.saved_tensors
        # The gradient takes the place of what it is masked with: one tensor less at the peak of a training step.
        return ctx.function(input).gt_(0).mul_(gradient), None, None


def rectified(output: torch.Tensor, function: Function, input: torch.Tensor) -> torch.Tensor:
    """ReLU of `function(input)`, in the place of this `output`, which is not kept for the backward pass. The function
    and its input are as in [`recomputed`].
    """
    return output.relu_() if others_decide() else Rectified.apply(output, function, input.detach())
