"""Reads `trainval_merged.json`, the file of the Detail API with the masks of Pascal Context."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image

from ..data.public_datasets import CLASS_NAMES
from ..errors import SetrError
from ..files import path_inside
from .parquet import SourceImage


# The one class that has another name in the file than in the benchmark.
CLASS_OF_CATEGORY = {"diningtable": "table"}
NUM_NAMES_SHOWN = 20
MOST_PIXELS = 10**8
SPLITS_BY_PHASE = {"train": "train", "val": "validation"}
# What is read of the file, whose several hundred megabytes are mostly parts, boundaries and occlusions.
NEEDED_KEYS = {
    *("images", "image_id", "file_name", "height", "width", "phase"),
    *("categories", "category_id", "name"),
    *("annos_segmentation", "segmentation", "size", "counts"),
}


@dataclass(frozen=True)
class ContextImage:
    """A JPEG in the annotation file, its size, and its masks as painted: class value 0…59 and run lengths."""

    file_name: str
    height: int
    width: int
    masks: list[tuple[int, str]]


def decode_run_lengths(counts: str, height: int, width: int) -> np.ndarray:
    """The mask in COCO's compressed run lengths, bool of shape `(height, width)`. Raises [`SetrError`] if the string
    is not such a code, or its runs do not add up to the image.

    The mask is read column by column; runs of zeros and ones alternate, zeros first. Each length is a signed number in
    groups of 5 bits, lowest first, written as the character 48 + group, + 32 if more groups follow; from the fourth on
    it is the difference from the last length but one.
    """
    code = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - 48
    if len(code) == 0 or code.min() < 0 or code.max() > 63 or code[-1] >= 32:
        raise SetrError("malformed run lengths")
    is_last = code < 32
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    position = np.arange(len(code)) - np.repeat(starts, ends - starts + 1)
    if position.max() > 6:  # No image has so many pixels that 35 bits cannot count them.
        raise SetrError("malformed run lengths")
    lengths = np.add.reduceat((code & 31) << 5 * position, starts)
    lengths -= np.where(code[ends] & 16, 1 << 5 * (position[ends] + 1), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    if lengths.min() < 0 or lengths.sum() != height * width:
        raise SetrError(f"run lengths that add up to {lengths.sum()} pixels instead of {height}×{width}")
    is_set = np.arange(len(lengths)) % 2 == 1
    return np.repeat(is_set, lengths).reshape(width, height).T


def paint_masks(image: ContextImage) -> PIL.Image.Image:
    """The annotation of an image, of mode "L" and its size: 0 is the background, 1…59 are the classes. Later masks,
    crowds included, cover earlier ones, as in `Detail.getMask`. Masks of other categories than the 59 classes paint
    background. Raises [`SetrError`] if a mask does not decode.
    """
    values = np.zeros((image.height, image.width), dtype=np.uint8)
    for value, counts in image.masks:
        try:
            values[decode_run_lengths(counts, image.height, image.width)] = value
        except SetrError as error:
            raise SetrError(f"a mask of {image.file_name} has {error}: download the annotation file again") from None
    return PIL.Image.fromarray(values)


def class_values(categories: list[dict]) -> dict[int, int]:
    """The class value, 1…59 or 0 for none, of each category id. Raises [`SetrError`] if a class is missing."""
    ids = {CLASS_OF_CATEGORY.get(entry["name"], entry["name"]): entry["category_id"] for entry in categories}
    classes = CLASS_NAMES["pascal_context"]
    if missing := [name for name in classes[1:] if name not in ids]:
        raise SetrError(f"it has no category {', '.join(missing)}")
    return {number: classes.index(name) if name in classes else 0 for name, number in ids.items()}


def check_image(image: ContextImage) -> None:
    """Raises [`SetrError`] if an image is not a file of a folder of photos, or does not have the size of a photo."""
    if not isinstance(image.file_name, str) or "/" in image.file_name:
        raise SetrError(f"the image {image.file_name!r} is not the name of a file")
    path_inside(Path(), image.file_name, "")
    sides = (image.height, image.width)
    if any(type(side) is not int or side < 1 for side in sides) or image.height * image.width > MOST_PIXELS:
        raise SetrError(f"the image {image.file_name} has the height and width {sides}")


def images_by_split(content: dict) -> dict[str, list[ContextImage]]:
    values = class_values(content["categories"])
    images: dict[int, ContextImage] = {}
    splits: dict[str, list[ContextImage]] = {split: [] for split in SPLITS_BY_PHASE.values()}
    for entry in sorted(content["images"], key=lambda entry: entry["file_name"]):
        image = ContextImage(entry["file_name"], entry["height"], entry["width"], masks=[])
        check_image(image)
        images[entry["image_id"]] = image
        # No published file has masks for the phase "test".
        if entry["phase"] in SPLITS_BY_PHASE:
            splits[SPLITS_BY_PHASE[entry["phase"]]].append(image)
    for entry in content["annos_segmentation"]:
        image, mask = images[entry["image_id"]], entry["segmentation"]
        if list(mask["size"]) != [image.height, image.width] or not isinstance(mask["counts"], str):
            size = f"{image.height}×{image.width}"
            raise SetrError(f"a mask of {image.file_name} is not in compressed run lengths of {size} pixels")
        image.masks.append((values[entry["category_id"]], mask["counts"]))
    return splits


def read_context_images(path: str | Path) -> dict[str, list[ContextImage]]:
    """The images in trainval_merged.json by split, `"train"` and `"validation"`, in the order of file names. Whatever
    is not needed is dropped as it is parsed: memory holds the text of the file and the masks. Raises [`SetrError`] if
    the file is missing, is not JSON, or is another one.
    """
    path = Path(path)
    if not path.is_file():
        raise SetrError(f"{path} is not a file")

    def needed_fields(entry: dict) -> dict:
        return {key: value for key, value in entry.items() if key in NEEDED_KEYS}

    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_hook=needed_fields)
    except (ValueError, RecursionError) as error:
        raise SetrError(f"{path} is not JSON, or its download is incomplete: {error}") from None
    not_expected = f"{path} is not the trainval_merged.json of Pascal Context that the Detail API publishes"
    missing = {"images", "categories", "annos_segmentation"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise SetrError(f"{not_expected}: it has no {', '.join(sorted(missing))}")
    try:
        return images_by_split(content)
    except (KeyError, TypeError, AttributeError) as error:
        raise SetrError(f"{not_expected}: an entry lacks or refers to {error}") from None
    except SetrError as error:
        raise SetrError(f"{not_expected}: {error}") from None


def usable_images(images: Iterable[ContextImage], jpegs: Path) -> tuple[list[SourceImage], dict[str, list[str]]]:
    """The images with masks and a JPEG in the folder `jpegs`, and the names of the others by the reason."""
    if not jpegs.is_dir():
        raise SetrError(f"{jpegs} is missing: VOC2010 is the folder that holds JPEGImages")
    usable: list[SourceImage] = []
    left_out: dict[str, list[str]] = {"no masks": [], "no JPEG file": []}
    for image in images:
        path = jpegs / image.file_name
        if not image.masks:
            left_out["no masks"].append(path.stem)
        elif not path.is_file():
            left_out["no JPEG file"].append(path.stem)
        else:
            usable.append(SourceImage(path, partial(paint_masks, image), f"{image.file_name} in the annotation file"))
    return usable, left_out


def left_out_notes(split: str, num_listed: int, left_out: dict[str, list[str]]) -> list[str]:
    """A sentence for each reason why images of a split were left out, with their names."""
    notes = []
    for reason, names in left_out.items():
        if names:
            more = f" and {len(names) - NUM_NAMES_SHOWN:,} more" if len(names) > NUM_NAMES_SHOWN else ""
            shown = ", ".join(names[:NUM_NAMES_SHOWN])
            notes.append(f"{split}: {len(names):,} of {num_listed:,} images left out, {reason}: {shown}{more}.")
    return notes
