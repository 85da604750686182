"""The one door for photos: upright and RGB."""

from pathlib import Path

from PIL import Image

from ..errors import SetrError
from ..model.photos_setr import load_photo, pil_to_rgb, reason_of, upright


def upright_rgb(photo: Image.Image) -> Image.Image:
    """A PIL image of any kind as an upright 8-bit RGB photo; itself if it is one already."""
    return pil_to_rgb(upright(photo))


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
