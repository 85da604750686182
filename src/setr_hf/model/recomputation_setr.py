"""Cheap functions computed again in the backward pass, instead of keeping what they returned."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.autograd.graph import saved_tensors_hooks


def others_have_hooks() -> bool:
    """Whether there are hooks that ours would take the place of; torch has no public way to ask."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is not None and getattr(hooks[0], "__module__", None) != __name__


@contextmanager
def recomputed(
    output: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor], input: torch.Tensor
) -> Iterator[None]:
    """Operators that run inside do not keep `output` for their backward pass, but compute `function(input)` again.

    It pays if the function is quick, and keeps its input anyway for a backward pass of its own: in a transformer layer
    normalization and activation, whose outputs are more than a third of what is kept. The gradients are the same to
    the bit.

    It does nothing where others decide on what is kept: `torch.compile`, gradient checkpointing, offloading.

    Args:
        output (`torch.Tensor`): What the function has returned, not a view of something else.
        function (`Callable`): Without randomness, and without effects besides its result.
        input (`torch.Tensor`): Its argument, which is not to be changed in place.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or others_have_hooks():
        yield
        return
    reference, input = weakref.ref(output), input.detach()

    def pack(tensor: torch.Tensor) -> torch.Tensor | torch.Size:
        whole = tensor if tensor._base is None else tensor._base
        return tensor.shape if whole is reference() and tensor.numel() == whole.numel() else tensor

    def unpack(packed: torch.Tensor | torch.Size) -> torch.Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        with torch.no_grad():
            return function(input).view(packed)

    with saved_tensors_hooks(pack, unpack):
        yield
