"""The one door for photos: upright and RGB."""

from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from ..model.image_processing_setr import pil_to_rgb


def upright(photo: Image.Image) -> Image.Image:
    """A photo turned as its EXIF orientation says; itself if there is nothing to turn."""
    return photo if photo.getexif().get(ExifTags.Base.Orientation, 1) == 1 else ImageOps.exif_transpose(photo)


def upright_rgb(photo: Image.Image) -> Image.Image:
    """A PIL image of any kind as an upright 8-bit RGB photo; itself if it is one already."""
    photo = upright(photo)
    return photo if photo.mode == "RGB" else pil_to_rgb(photo)


def read_photo(path: str | Path) -> Image.Image:
    """The photo in a file, upright and RGB. Raises `OSError`, `ValueError` or `PIL.Image.DecompressionBombError` if
    the file cannot be read as a photo.
    """
    with Image.open(path) as photo:
        photo.load()
        return upright_rgb(photo)
