"""What tells whether weights or pixels are the same as those of another run."""

from collections.abc import Iterable
from typing import Any

import torch


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor's values, in order."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def add_tensors(digest: Any, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Feeds names, types, shapes and values to a digest of `hashlib`."""
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor_bytes(tensor))
