"""Sizes of crops, windows and photos that nobody asked for: they follow from the training photos."""

from argparse import Namespace
from contextlib import suppress
from statistics import median
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..data.rows import SegmentationData, open_file
from ..model.photos_setr import size_of_photo
from ..model.plain_backbone_setr import encoder_image_size, encoder_sizes
from .options import DEFAULT_CROP_SIZE, check_windows, default_stride, find_backbone


# So many photos say how large all are.
NUM_PHOTOS_READ = 200
LEAST_CROP = 32
# The side of a patch in the own encoder; crops are whole patches.
MULTIPLE = 16
# Photos more than so many crops high and wide are made smaller, so that a crop shows more than a detail.
MOST_CROPS = 2


def short_sides(data: SegmentationData) -> list[int]:
    """The shorter sides of some photos, spread evenly over the data, in pixels. The header of a file tells; photos
    that cannot be read are left out, as the check of all samples will name them.
    """
    sides = []
    for index in np.linspace(0, len(data) - 1, min(NUM_PHOTOS_READ, len(data))).astype(int):
        with suppress(Exception):
            sides.append(short_side(data, data.undecoded[int(index)]))
    return sides


def short_side(data: SegmentationData, row: dict) -> int:
    """The shorter side of the photo in an undecoded row, in pixels."""
    if data.num_bands is None and data.array_dtype is None:
        with suppress(UnidentifiedImageError), open_file(row["image"]) as file:
            return min(Image.open(file).size)
    return min(size_of_photo(data.read_photo(row["image"], row["name"])))


def choose_sizes(options: Namespace, data: SegmentationData) -> dict[str, Any]:
    """The values of `crop_size`, `stride`, and `size` if photos are to be resized, that the options of a new model
    leave open. A crop is as large as most photos allow, up to the `image_size` of `config` or the size that the
    backbone was trained at, or 512 pixels, in whole patches. Raises [`SetrError`] if the stride that was asked for
    leaves gaps between such windows.
    """
    if options.crop_size:
        return {}
    backbone = find_backbone(options.backbone) if options.backbone else None
    trained_size = encoder_image_size(backbone) if backbone else None
    multiple = encoder_sizes(backbone)["patch_size"] if backbone else MULTIPLE
    limit = options.config.get("image_size") or trained_size or DEFAULT_CROP_SIZE
    crop_size = [limit, limit] if isinstance(limit, int) else list(limit)
    size = None
    if options.size:
        usual_side: float = options.size[0]
    elif data.is_stream or not (sides := short_sides(data)):
        usual_side = min(crop_size)
    else:
        usual_side = median(sides)
        if usual_side > MOST_CROPS * min(crop_size):
            usual_side, size = min(crop_size), [min(crop_size)]
    largest = max(LEAST_CROP, int(usual_side))
    crop_size = [max(multiple, min(side, largest) // multiple * multiple) for side in crop_size]
    stride = options.stride or default_stride(crop_size)
    check_windows(crop_size, stride)
    return {"crop_size": crop_size, "stride": stride, **({"size": size} if size else {})}


def sizes_row(options: Namespace, chosen: dict[str, Any]) -> tuple[str, str]:
    """What was chosen, as a name and a value for a terminal."""
    crop = "×".join(map(str, chosen["crop_size"]))
    how = f"resized to a short side of {chosen['size'][0]}" if "size" in chosen else "as large as they are"
    if options.size:
        how = f"resized to a short side of {options.size[0]}"
    return "sizes", f"crops of {crop}, windows {chosen['stride']} apart, photos {how} (--crop-size, --stride, --size)"
