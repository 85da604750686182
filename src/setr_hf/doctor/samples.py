"""One pass over the samples of a data set: each is read once, and what was seen in it is kept."""

import hashlib
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from ..data.label_sets import INVALID, LabelSet
from ..data.rows import SegmentationData, decode, open_file
from ..errors import SetrError
from ..inference.photos import shown_photo
from ..model.image_processing_setr import IGNORED_LABEL
from ..model.photos_setr import pil_to_rgb, upright
from ..progress import progress_bar
from .edges import EdgeScores, edge_scores
from .repeats import Fingerprint, fingerprint


# How interpolation shows, a part of a large annotation tells as well as the whole.
MOST_PIXELS_A_SIDE = 1024


@dataclass(frozen=True, eq=False)
class PhotoFacts:
    """What was seen in a photo. `size`, width and height in pixels, is that of the upright one; `orientation` is what
    its EXIF data say, 1 for upright.
    """

    format: str | None
    mode: str
    size: tuple[int, int]
    orientation: int
    has_alpha: bool
    is_constant: bool
    fingerprint: Fingerprint


@dataclass(frozen=True, eq=False)
class MaskFacts:
    """What was seen in an annotation.

    Args:
        size (`tuple[int, int]`): Width and height in pixels, as stored.
        channels (`int`): 1 for ids.
        counts (`np.ndarray` of shape `(256,)`, *optional*): The pixels of each value; `None` if it does not hold ids
            from 0 to 255.
        contents (`str`): The type and range of its values, in words.
        colors (`dict[int, tuple[int, int, int]]`): Of a PNG with a palette, the RGB colour of each value that occurs.
        num_ramps, num_steps (`int`): Where a value lies between its two neighbours, as interpolation leaves them, and
            where one value borders on another that is not the next number.
    """

    format: str | None
    mode: str
    size: tuple[int, int]
    channels: int
    counts: np.ndarray | None
    contents: str
    colors: dict[int, tuple[int, ...]]
    num_ramps: int = 0
    num_steps: int = 0


@dataclass(frozen=True, eq=False)
class SampleFacts:
    """What was seen in a sample; `None` for what it lacks, or could not be read, which an error says. `refusal` is why
    `train` would not take its annotation.
    """

    split: str
    name: str
    index: int
    photo: PhotoFacts | None = None
    mask: MaskFacts | None = None
    has_photo: bool = True
    has_mask: bool = True
    photo_error: str | None = None
    mask_error: str | None = None
    refusal: str | None = None
    edges: EdgeScores | None = None

    @property
    def title(self) -> str:
        return f"{self.split}/{self.name}"


@dataclass(frozen=True, eq=False)
class DataFacts:
    """What was seen in all samples, and what the values of the annotations mean."""

    samples: list[SampleFacts]
    label_set: LabelSet
    splits: dict[str, SegmentationData]
    has_names: bool

    @property
    def with_ids(self) -> list[SampleFacts]:
        """The samples whose annotation holds ids from 0 to 255."""
        return [sample for sample in self.samples if sample.mask is not None and sample.mask.counts is not None]

    def counts(self, split: str | None = None) -> np.ndarray:
        """The pixels of each value in the annotations, `(256,)`, of a split or of all."""
        counts = [ids_of(sample) for sample in self.with_ids if split in (None, sample.split)]
        return np.sum([np.zeros(256, dtype=np.int64), *counts], axis=0)

    def class_counts(self, split: str | None = None) -> np.ndarray:
        """The pixels of each class, `(256,)`, those that are ignored at 255; values without a meaning do not count."""
        return classes_of(self.counts(split), self.label_set)


def ids_of(sample: SampleFacts) -> np.ndarray:
    assert sample.mask is not None and sample.mask.counts is not None
    return sample.mask.counts


def classes_of(counts: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """The pixels of each class, from those of each value of the annotations."""
    known = label_set.lookup != INVALID
    return np.bincount(label_set.lookup[known], counts[known], minlength=256).astype(np.int64)


def read_samples(splits: dict[str, SegmentationData]) -> list[SampleFacts]:
    """Reads every sample of the splits, with as many threads as there are CPUs: Pillow and OpenCV work without the
    interpreter's lock.
    """
    work = [(split, index) for split, data in splits.items() for index in range(len(data))]
    # Each warning of Pillow's is of a single file, and would name none. Threads share what filters them.
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        results = pool.map(lambda item: read_sample(splits[item[0]], *item), work)
        return list(progress_bar(len(work), "sample", iterable=results))


def read_sample(data: SegmentationData, split: str, index: int) -> SampleFacts:
    row = data.undecoded[index]
    name, facts = row["name"], {"split": split, "name": row["name"], "index": index}
    facts |= {"has_photo": row["image"] is not None, "has_mask": row.get("annotation") is not None}
    photo = mask = None
    if facts["has_photo"]:
        try:
            read = read_photo if data.num_bands is None and data.array_dtype is None else partial(read_bands, data)
            photo, facts["photo"] = read(row["image"], f"the image of {name}")
        except SetrError as error:
            facts["photo_error"] = str(error)
    if facts["has_mask"]:
        try:
            mask = decode(row["annotation"], f"the annotation of {name}", as_stored=True)
            facts["mask"] = mask_facts(mask)
        except SetrError as error:
            facts["mask_error"] = str(error)
    if photo is None or mask is None:
        return SampleFacts(**facts)
    try:
        data.label_set.encode(upright(mask), name, photo.size)
    except SetrError as error:
        facts["refusal"] = str(error)
    if mask.size == photo.size and facts["mask"].counts is not None and not facts["photo"].is_constant:
        values = np.asarray(mask).astype(np.uint8)
        facts["edges"] = edge_scores(np.asarray(photo.convert("L")), values, data.label_set.lookup, IGNORED_LABEL)
    return SampleFacts(**facts)


def read_photo(file: dict, what: str) -> tuple[Image.Image, PhotoFacts]:
    """The photo in an image file, upright and RGB, and what was seen in it."""
    stored = decode(file, what, as_stored=True)
    turned = upright(stored)
    try:
        photo = pil_to_rgb(turned)
    except ValueError as error:
        raise SetrError(f"{what} cannot be read: {error}") from error
    with open_file(file) as opened:
        digest = hashlib.sha256(opened.read()).hexdigest()
    extrema: Any = photo.getextrema()
    return photo, PhotoFacts(
        format=stored.format,
        mode=stored.mode,
        size=photo.size,
        orientation=orientation_of(stored),
        has_alpha=stored.has_transparency_data,
        is_constant=all(low == high for low, high in extrema),
        fingerprint=fingerprint(np.asarray(photo), digest),
    )


def read_bands(data: SegmentationData, image: Any, what: str) -> tuple[Image.Image, PhotoFacts]:
    """As [`read_photo`], of a photo of bands; the photo is a picture of the first ones."""
    bands = np.asarray(data.read_photo(image, what))
    photo = shown_photo(bands)
    suffix = Path(str(image["path"])).suffix.lower() if isinstance(image, dict) else ""
    return photo, PhotoFacts(
        format={".npy": "npy", ".tif": "TIFF", ".tiff": "TIFF"}.get(suffix),
        mode=f"{bands.shape[-1]} × {bands.dtype}",
        size=photo.size,
        orientation=1,
        has_alpha=False,
        is_constant=bool((bands == bands[:1, :1]).all()),
        fingerprint=fingerprint(np.asarray(photo), hashlib.sha256(bands.tobytes()).hexdigest()),
    )


def orientation_of(photo: Image.Image) -> int:
    """What the EXIF data of a photo say, from 1, upright, to 8; damaged data say nothing."""
    try:
        orientation = photo.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # As in `upright`.
        return 1
    return orientation if orientation in range(1, 9) else 1


def mask_facts(mask: Image.Image) -> MaskFacts:
    values = np.asarray(mask)
    described: dict[str, Any] = {"format": mask.format, "mode": mask.mode, "size": mask.size, "colors": {}}
    described["contents"] = f"{values.dtype} values from {values.min()} to {values.max()}"
    if values.ndim != 2:
        return MaskFacts(**described, channels=values.shape[-1], counts=None)
    if values.dtype.kind not in "bui" or values.min() < 0 or values.max() > 255:
        return MaskFacts(**described, channels=1, counts=None)
    ids = values.astype(np.uint8)
    counts = np.bincount(ids.ravel(), minlength=256)
    if mask.mode == "P":
        palette = np.array(mask.getpalette("RGB"), dtype=int).reshape(-1, 3)
        described["colors"] = {int(i): tuple(palette[i].tolist()) for i in np.flatnonzero(counts) if i < len(palette)}
    part = np.ascontiguousarray(ids[middle(ids.shape[0]), middle(ids.shape[1])])
    ramps, steps = np.add(ramps_and_steps(part), ramps_and_steps(np.ascontiguousarray(part.T)))
    return MaskFacts(**described, channels=1, counts=counts, num_ramps=int(ramps), num_steps=int(steps))


def middle(length: int) -> slice:
    """Up to `MOST_PIXELS_A_SIDE` pixels in the middle of a side."""
    start = max(0, length - MOST_PIXELS_A_SIDE) // 2
    return slice(start, start + MOST_PIXELS_A_SIDE)


def ramps_and_steps(ids: np.ndarray) -> tuple[int, int]:
    """In the rows of a label map `(height, width)`: how many pixels lie strictly between their neighbours, and how
    many pairs of two equal ones differ by more than 1 from the pair that follows. Noise, in which most pixels differ
    from the next, has neither.
    """
    left, middle, right = ids[:, :-2], ids[:, 1:-1], ids[:, 2:]
    ramps = ((left < middle) & (middle < right)) | ((left > middle) & (middle > right))
    same = ids[:, 1:] == ids[:, :-1]
    if same.sum() < same.size / 2:
        return 0, 0
    differs = np.abs(ids[:, 1:-2].astype(np.int16) - ids[:, 2:-1]) > 1
    return int(ramps.sum()), int((same[:, :-2] & same[:, 2:] & differs).sum())
