"""Bilinear resizing as matrices, one for each axis, with which maps are resized piece by piece."""

import math
from collections.abc import Iterator

import torch
from torch.nn import functional as F


def interpolation_matrix(
    length: int,
    new_length: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    align_corners: bool = False,
) -> torch.Tensor:
    """The weights `(new_length, length)` by which bilinear resizing computes one axis from its old samples.

    With those of the rows and of the columns, `rows @ maps @ columns.T` are `maps` resized as by
    [`~torch.nn.functional.interpolate`], and `rows.T @ gradient @ columns` is the gradient of the maps.
    """
    identity = torch.eye(length, dtype=dtype, device=device)
    return F.interpolate(identity[None], size=new_length, mode="linear", align_corners=align_corners)[0].T


def source_range(start: int, stop: int, length: int, new_length: int, align_corners: bool = False) -> tuple[int, int]:
    """First old sample, and the one after the last, that the new samples from `start` up to `stop` are computed from:
    outside of these columns, the rows from `start` to `stop` of [`interpolation_matrix`] are zero.
    """

    def position(index: int) -> float:
        if align_corners:
            return index * (length - 1) / max(new_length - 1, 1)
        return (index + 0.5) * length / new_length - 0.5

    # In fp32 a position just beside a sample may round to its other side.
    margin = 0.01
    first = math.floor(position(start) - margin)
    last = math.floor(position(stop - 1) + margin) + 1
    return min(max(first, 0), length - 1), min(max(last, 0), length - 1) + 1


def slices(start: int, stop: int, length: int) -> Iterator[slice]:
    """The slices of `length`, the last one shorter, from `start` up to `stop`."""
    for first in range(start, stop, length):
        yield slice(first, min(first + length, stop))
