"""A validation split for data that has none: part of the training samples."""

import hashlib

from ..errors import SetrError
from .rows import SegmentationData


HOW_TO_VALIDATE = "--validation-fraction 0.1 holds out a tenth of the training samples"


def held_out(data: SegmentationData, fraction: float, is_validation: bool) -> SegmentationData:
    """The samples that a training split holds out for validation, about `fraction` of them, or the others.

    A checksum of its name decides on a sample, so that each job holds out the same ones, in whatever order they are
    read, and a sample that is added later moves at most one other. Raises [`SetrError`] if there are fewer than two.
    """
    names = data.rows["name"][:]
    if len(names) < 2:
        raise SetrError(f"{len(names)} training samples cannot be parted for validation")
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    order = sorted(range(len(names)), key=lambda index: hashlib.sha256(names[index].encode()).digest())
    chosen = order[:count] if is_validation else order[count:]
    return data.select(sorted(chosen))
