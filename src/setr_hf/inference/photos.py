"""The one door for photos: upright, and RGB or of as many bands as a model takes."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import SetrError
from ..model.bands_setr import load_photo, read_bands
from ..model.photos_setr import Photo, pil_to_rgb, reason_of, upright


# Brightness of which a photo of bands is shown: percentiles.
SHOWN_RANGE = (2, 98)
# Pixels along a side that percentiles are taken from.
MOST_PIXELS_A_SIDE = 1024


def upright_rgb(photo: Image.Image) -> Image.Image:
    """A PIL image of any kind as an upright 8-bit RGB photo; itself if it is one already."""
    return pil_to_rgb(upright(photo))


def stretched(band: np.ndarray) -> np.ndarray:
    """A band `(height, width)` in 8 bits, its 2nd percentile black and its 98th white."""
    step = max(1, max(band.shape) // MOST_PIXELS_A_SIDE)
    low, high = np.percentile(band[::step, ::step].astype(np.float64), SHOWN_RANGE)
    shares = (band.astype(np.float64) - low) / max(high - low, np.finfo(np.float32).tiny)
    return (np.clip(shares, 0, 1) * 255).round().astype(np.uint8)


def shown_photo(photo: Photo) -> Image.Image:
    """A photo as a picture to look at: upright and RGB. Of an array `(height, width, bands)` the first three bands are
    red, green and blue, or the first alone is gray, each [`stretched`].
    """
    if isinstance(photo, Image.Image):
        return upright_rgb(photo)
    shown = range(3) if photo.shape[-1] >= 3 else (0, 0, 0)
    return Image.fromarray(np.stack([stretched(photo[..., band]) for band in shown], axis=-1))


def read_photo_of_bands(path: str | Path, num_bands: int | None) -> Photo:
    """The photo in a file as a model takes it, whose image processor has this `num_bands`: [`read_photo`] if that is
    `None`; else [`read_bands`], whose errors become a [`SetrError`].
    """
    if num_bands is None:
        return read_photo(path)
    try:
        return read_bands(path, num_bands)
    except ValueError as error:
        raise SetrError(error) from error


def read_photo(path: str | Path) -> Image.Image:
    """The photo in a file, upright and RGB; of an animation, the first frame. EXIF data that is damaged is ignored.

    Raises [`SetrError`] "PATH cannot be read as a photo: reason" if the file is missing, is not an image, is damaged
    or incomplete, holds intensities of an unknown range or NaN, or might be a decompression bomb: more than twice
    `PIL.Image.MAX_IMAGE_PIXELS` (179 megapixels), which are not even decoded.
    """
    try:
        photo = load_photo(path)
    except ValueError as error:
        raise SetrError(error) from error
    try:
        return upright_rgb(photo)
    except (ValueError, MemoryError) as error:
        raise SetrError(f"{path} cannot be read as a photo: {reason_of(error)}") from error
