"""Photos of any kind and origin, made upright and 8-bit RGB or refused, for the image processors."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from transformers.image_utils import ChannelDimension


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow looks for an orientation; a copy that has been turned must not say it a second time.
ORIENTATION_SOURCES = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


# PIL images are handled as 8-bit RGB; arrays `(height, width, bands)` hold any number of bands.
Photo = Image.Image | np.ndarray


def size_of_photo(photo: Any) -> tuple[int, int]:
    """Height and width in pixels of a photo, or a picture that is read by windows."""
    return photo.shape[:2] if isinstance(photo, np.ndarray) else (photo.height, photo.width)


def reason_of(error: Exception) -> str:
    """What an error of Pillow's says, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "it is not in a format of images that Pillow knows"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def open_photo(file: str | Path | BinaryIO) -> Image.Image:
    """The photo in a file, decoded; of an animation, its first frame. Raises errors of many types, as Pillow does, and
    `ValueError` for PostScript, a program that Pillow would pass to Ghostscript.
    """
    with Image.open(file) as photo:
        if photo.format == "EPS":
            raise ValueError("PostScript is a program, which is not run")
        return decoded(photo)


def decoded(photo: Image.Image) -> Image.Image:
    """The photo itself, decoded if its file has only been opened. Raises `ValueError` if it cannot be, or is empty."""
    try:
        photo.load()
    except Exception as error:
        raise ValueError(f"it cannot be decoded: {reason_of(error)}") from error
    check_size(photo.height, photo.width)
    return photo


def check_size(height: int, width: int) -> None:
    """Raises `ValueError` if there is not one pixel."""
    if height < 1 or width < 1:
        raise ValueError(f"there are no pixels in it: its height is {height} and its width {width}")


def upright(photo: Image.Image) -> Image.Image:
    """A photo turned as its EXIF orientation says; or itself. Damaged EXIF data is dropped."""
    try:
        # Pillow complains of damaged data only once, which may have been at opening.
        probe = Image.new("1", (1, 1))
        probe.info = photo.info
        probe.getexif()
        turn = TURNS.get(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # As above; a photo is worth more than its EXIF data.
        turned = photo.copy()
    else:
        if turn is None:
            return photo
        turned = photo.transpose(turn)
    for name in ORIENTATION_SOURCES:
        turned.info.pop(name, None)
    return turned


def to_8_bit(image: np.ndarray) -> np.ndarray:
    """Unsigned 16-bit intensities to 8 bits; everything else as it is."""
    return ((image.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8) if image.dtype == np.uint16 else image


def pil_to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image to 8-bit RGB. An alpha channel is dropped, as the segmentation pipeline does. Intensities of 16
    bits are reduced to 8 if one of them exceeds 255; those of floating-point images are scaled by 255 if they all lie
    within 0 and 1. Raises `ValueError` for intensities outside these ranges, and for NaN.
    """
    check_size(image.height, image.width)
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        image = float_to_gray(image)
    elif image.mode.startswith("I"):
        # Pillow would clip 16-bit intensities at 255. 16-bit PNGs open as "I;16", and as "I" before Pillow 11.
        intensities = np.asarray(image)
        low, high = int(intensities.min()), int(intensities.max())
        if low < 0 or high > 65535:
            raise ValueError(f"its intensities lie within {low} and {high}, which is neither 8 nor 16 bits")
        if high > 255:
            intensities = to_8_bit(intensities.astype(np.uint16))
        image = Image.fromarray(intensities.astype(np.uint8))
    return image.convert("RGB")


def array_to_rgb(image: np.ndarray) -> Image.Image:
    """An array `(height, width, channels)` of 1, 3 or 4 channels, the last of which is dropped, as 8-bit RGB, with the
    rules of [`pil_to_rgb`] for intensities of other types.
    """
    if image.shape[-1] not in (1, 3, 4):
        raise ValueError(f"it has {image.shape[-1]} channels, but image_mean has 3, as many as the model takes")
    shown = image[..., : 3 if image.shape[-1] >= 3 else 1]
    if shown.dtype == np.uint8:
        pixels = shown
    else:
        rows = Image.fromarray(
            shown.reshape(len(shown), -1).astype(np.float32 if shown.dtype.kind == "f" else np.int32)
        )
        pixels = np.asarray(pil_to_rgb(rows))[..., 0].reshape(shown.shape)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))


def float_to_gray(image: Image.Image) -> Image.Image:
    """A floating-point photo (mode "F", such as TIFF has) in 8 bits."""
    intensities = np.asarray(image)
    low, high = float(intensities.min()), float(intensities.max())
    if not (low >= 0 and high <= 255):  # NaN too.
        raise ValueError(
            f"its floating-point intensities lie within {low:g} and {high:g}: they must be 0 to 1, or 0 to 255"
        )
    if high > 1:
        return image.convert("L")
    return Image.fromarray((intensities * 255).round().astype(np.uint8))


def channels_first_rgb(
    image: np.ndarray | torch.Tensor, data_format: ChannelDimension | str
) -> np.ndarray | torch.Tensor:
    """An array or tensor of 1, 3 or 4 channels to three, channels first, with 16-bit intensities reduced to 8."""
    image = image if data_format == ChannelDimension.FIRST else image.swapaxes(0, 2).swapaxes(1, 2)
    image = image[[0, 0, 0]] if image.shape[0] == 1 else image[:3]
    if isinstance(image, np.ndarray):
        return to_8_bit(image)
    return torch.from_numpy(to_8_bit(image.cpu().numpy())) if image.dtype == torch.uint16 else image


def check_type(image: Any) -> None:
    """Raises `ValueError` unless an array or tensor holds real numbers, and has two or three dimensions."""
    if isinstance(image, np.ndarray):
        is_numeric = image.dtype.kind in "uif"
    else:
        is_numeric = not image.is_complex() and image.dtype != torch.bool
        if image.layout != torch.strided or image.is_meta or image.is_quantized:
            raise ValueError("it is a sparse, quantized or meta tensor, not a plain one")
    if not is_numeric:
        raise ValueError(f"it holds values of the type {image.dtype}, not intensities")
    if image.ndim not in (2, 3):
        raise ValueError(
            f"it has the shape {tuple(image.shape)}, not (height, width), (channels, height, width) or "
            "(height, width, channels)"
        )


def check_intensities(image: np.ndarray | torch.Tensor, from_8_bit: bool) -> None:
    """Raises `ValueError` if an array or tensor holds NaN or infinity or, where intensities of 0 to 255 are expected
    (`from_8_bit`), numbers that are clearly of another range.
    """
    name = str(image.dtype).removeprefix("torch.")
    if name == "uint8":
        return
    is_float = "float" in name
    if is_float and not (np.isfinite(image) if isinstance(image, np.ndarray) else image.isfinite()).all():
        raise ValueError("it holds NaN or infinite values")
    if not from_8_bit:
        return
    # torch cannot compare unsigned integers of 16 bits.
    values = image.cpu().numpy() if name == "uint16" and isinstance(image, torch.Tensor) else image
    low, high = values.min().item(), values.max().item()
    # Bicubic resizing, for one, leaves floating-point intensities a little outside the range.
    if low < -255 * is_float or high > 255 + 255 * is_float:
        raise ValueError(f"its intensities lie within {low:g} and {high:g}, not 0 and 255")
    if is_float and ((low < 0 and high < 10) or 0 < high <= 1):
        raise ValueError(
            f"its values lie within {low:g} and {high:g}: pass intensities of 0 to 255, or do_rescale=False if they "
            "are scaled already, and do_normalize=False if they are normalized too"
        )


__all__ = ["pil_to_rgb", "upright"]
