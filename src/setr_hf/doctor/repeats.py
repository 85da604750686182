"""The same photo twice: by its bytes, or by how it looks after it was saved or resized once more."""

from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np


THUMBNAIL_SIDE = 32
# Bits of 64 that may differ. Photos saved again at JPEG quality 20, or at half their size, differ in up to 2.
MOST_BITS = 6
# Levels, of 255, that each pixel of the thumbnails may differ by, and, in relation to the contrast of the photo, their
# mean. Frames of a video one second apart differ by 26 and more somewhere.
MOST_LEVELS = 16
MOST_MEAN = 0.05
# Photos compared at a time.
CHUNK = 256
NUM_BITS = np.array([value.bit_count() for value in range(256)], dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What makes a photo recognizable.

    Args:
        digest (`str`): SHA-256 of its file.
        bits (`np.ndarray` of shape `(8,)`, uint8): Whether each cell of 8 × 9 is brighter than its left neighbour,
            known as dHash.
        thumbnail (`np.ndarray` of shape `(32, 32, 3)`, uint8): The photo in small.
    """

    digest: str
    bits: np.ndarray
    thumbnail: np.ndarray


def fingerprint(pixels: np.ndarray, digest: str) -> Fingerprint:
    """Of an RGB photo `(height, width, 3)`."""
    thumbnail = cv2.resize(pixels, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    cells = cv2.resize(cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    return Fingerprint(digest, np.packbits(cells[:, 1:] > cells[:, :-1], axis=None), thumbnail)


def looks_the_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two thumbnails are of the same photo."""
    difference = np.abs(one.astype(np.int16) - other)
    return bool(difference.max() <= MOST_LEVELS and difference.mean() <= MOST_MEAN * one.std())


def same_photos(first: list[Fingerprint], second: list[Fingerprint]) -> list[tuple[int, int]]:
    """The pairs of indices of the same photo in two lists."""
    if not first or not second:
        return []
    bits = np.array([photo.bits for photo in second])
    pairs = []
    for start in range(0, len(first), CHUNK):
        chunk = np.array([photo.bits for photo in first[start : start + CHUNK]])
        differing = sum(NUM_BITS[chunk[:, None, i] ^ bits[None, :, i]].astype(np.int16) for i in range(8))
        for i, j in np.argwhere(np.asarray(differing) <= MOST_BITS):
            one, other = first[start + i], second[j]
            if one.digest == other.digest or looks_the_same(one.thumbnail, other.thumbnail):
                pairs.append((start + int(i), int(j)))
    return pairs


def repeated(photos: list[Fingerprint]) -> list[list[int]]:
    """The groups of indices of files with the same bytes."""
    groups = defaultdict(list)
    for index, photo in enumerate(photos):
        groups[photo.digest].append(index)
    return [group for group in groups.values() if len(group) > 1]
