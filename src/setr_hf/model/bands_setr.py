"""Photos of any number of bands: read from .npy and TIFF files, rescaled by their type, and checked."""

import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from .photos_setr import array_to_rgb, open_photo, reason_of, upright


NPY_START = b"\x93NUMPY"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# As for photos, of which Pillow refuses more than twice its MAX_IMAGE_PIXELS; and of values in all bands.
MOST_PIXELS = 2 * 89_478_485
MOST_VALUES = 2**31
GRAY_MODES = ("L", "I", "F")


def bands_last(image: np.ndarray, num_bands: int | None = None) -> np.ndarray:
    """An array `(height, width)`, `(height, width, bands)` or `(bands, height, width)` as `(height, width, bands)`.
    The bands are on the axis that has `num_bands`, the last if both have; if their number is not known, on the shorter
    one of the first and the last. Raises `ValueError` for other shapes, and for what holds no real numbers.
    """
    if image.dtype.kind not in "uif":
        raise ValueError(f"it holds values of the type {image.dtype}, not intensities")
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"it has the shape {image.shape}, not (height, width, bands), none of them 0")
    first, last = image.shape[0], image.shape[-1]
    is_first = first < last if num_bands is None else first == num_bands != last
    return np.moveaxis(image, 0, -1) if is_first else image


def rasterio_module() -> Any:
    """The library that reads and writes GeoTIFF, of the extra `large`. Raises `ValueError` if it is not installed."""
    try:
        import rasterio
    except ImportError:
        raise ValueError("it takes rasterio to read and write such TIFF files: pip install 'setr-hf[large]'") from None
    return rasterio


def check_extent(height: int, width: int, num_bands: int) -> None:
    """Raises `ValueError` for pictures so large that they may fill the memory, before they are decoded."""
    if height * width > MOST_PIXELS or height * width * num_bands > MOST_VALUES:
        raise ValueError(
            f"it has {height}×{width} pixels in {num_bands} bands, too many to be read at once: predict --full-size "
            "segments TIFF files by windows"
        )


def open_file(path: str | Path) -> BinaryIO:
    """An open file. Raises `ValueError` for a pipe or a device, which might be waited for."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError("it is not a file, but a pipe or a device")
    return open(path, "rb")


def npy_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array in a .npy file. Raises `ValueError` if it is not one of numbers, or is too large."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.kind not in "uif":
        raise ValueError(f"it holds values of the type {dtype}, not intensities")
    if math.prod(shape) > MOST_VALUES:
        raise ValueError(f"its array of the shape {shape} is too large to be read at once")
    return shape, dtype


def kind_of_file(file: BinaryIO) -> str | None:
    """ "npy" or "tiff", by the first bytes of a file, which is left at its beginning; `None` for all others."""
    start = file.read(len(NPY_START))
    file.seek(0)
    if start == NPY_START:
        return "npy"
    return "tiff" if start.startswith(TIFF_STARTS) else None


def check_nodata(bands: np.ndarray, nodata: Any) -> None:
    """Raises `ValueError` if an array holds NaN, infinity, or the value that stands for missing data, if any."""
    if bands.dtype.kind == "f" and not np.isfinite(bands).all():
        count = int((~np.isfinite(bands)).any(axis=-1).sum())
        raise ValueError(f"{count} of its pixels are NaN or infinite: fill them")
    missing = 0 if nodata is None else int((bands == nodata).any(axis=-1).sum())
    if missing:
        raise ValueError(
            f"{missing} of its pixels hold no data (nodata={nodata:g}): fill them (gdal_fillnodata), or take them as "
            "they are (gdal_edit -unsetnodata)"
        )


@contextmanager
def tiff_dataset(file: BinaryIO) -> Iterator[Any]:
    """An open TIFF file as a dataset of rasterio. Raises `ValueError` if that is not installed."""
    rasterio = rasterio_module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.MemoryFile(file.read()) as memory, memory.open(driver="GTiff") as dataset:
            yield dataset


def read_tiff_bands(file: BinaryIO) -> np.ndarray:
    """All bands of a TIFF file, `(height, width, bands)`, of the file's type."""
    with tiff_dataset(file) as dataset:
        check_extent(dataset.height, dataset.width, dataset.count)
        check_band_types(dataset)
        bands = np.moveaxis(dataset.read(), 0, -1)
        check_nodata(bands, dataset.nodata)
        return bands


def check_band_types(dataset: Any) -> None:
    """Raises `ValueError` if the bands of a TIFF file are of several types, or complex."""
    types = sorted(set(dataset.dtypes))
    if len(types) > 1 or np.dtype(types[0]).kind not in "uif":
        raise ValueError(f"its bands are of the types {', '.join(types)}: save them as one of integers or floats")


def bands_of_pil(image: Image.Image, num_bands: int | None = None) -> np.ndarray:
    """A PIL image as `(height, width, bands)`: gray of 8 or 16 bits or floating-point is one band, RGBA are four, and
    what has other colours becomes RGB. Of RGB whose bands are equal, as the segmentation pipeline makes of gray
    photos, the first counts if `num_bands` is 1.
    """
    image = upright(image)
    if image.mode.startswith(GRAY_MODES) and image.mode != "LA":
        bands = np.array(image)[..., None]
        # 16-bit PNGs open as "I" before Pillow 11.
        if bands.dtype == np.int32 and bands.min() >= 0 and bands.max() <= 65535:
            bands = bands.astype(np.uint16)
        return bands
    bands = np.array(image if image.mode in ("RGB", "RGBA", "LA") else image.convert("RGB"))
    if num_bands == 1 and image.mode == "RGB" and (bands == bands[..., :1]).all():
        return bands[..., :1]
    return bands


def check_num_bands(found: int, num_bands: int | None) -> None:
    """Raises `ValueError` if a photo has another number of bands than is wanted, if any is."""
    if num_bands is not None and found != num_bands:
        raise ValueError(f"it has {found} channels, but image_mean has {num_bands}, as many as the model takes")


def bands_in(file: BinaryIO, num_bands: int | None = None) -> np.ndarray:
    """The photo in an open file, see [`read_bands`]. Its errors are of many types, and do not name the file."""
    kind = kind_of_file(file)
    if kind == "npy":
        npy_header(file)
        file.seek(0)
        bands = bands_last(np.lib.format.read_array(file, allow_pickle=False), num_bands)
        check_nodata(bands, None)
    elif kind == "tiff":
        bands = read_tiff_bands(file)
    else:
        bands = bands_of_pil(open_photo(file), num_bands)
    check_num_bands(bands.shape[-1], num_bands)
    return bands


def open_rgb(file: BinaryIO) -> Image.Image:
    """The photo in an open file for a model of ordinary photos: a .npy file, or a TIFF that Pillow cannot read, such
    as one of 16-bit RGB, becomes 8-bit RGB; all others are as Pillow reads them. Errors are of many types.
    """
    kind = kind_of_file(file)
    if kind == "npy":
        return array_to_rgb(bands_in(file))
    try:
        return open_photo(file)
    except UnidentifiedImageError as error:
        if kind != "tiff":
            raise
        file.seek(0)
        try:
            bands = read_tiff_bands(file)
        except OSError:  # Of rasterio, which can read no more of a damaged file.
            raise error from None
        return array_to_rgb(bands)


@contextmanager
def photo_file(path: str | Path) -> Iterator[BinaryIO]:
    """An open file, for a block that reads the photo in it, whose errors become a `ValueError` that names the file."""
    try:
        with open_file(path) as file:
            yield file
    except Exception as error:  # Damaged files break their readers wherever they happen to.
        raise ValueError(f"{path} cannot be read as a photo: {reason_of(error)}") from error


def load_photo(path: str | Path) -> Image.Image:
    """The photo in a file, see [`open_rgb`], decoded; of an animation, its first frame. Raises `ValueError` that names
    the file if there is none, it is damaged or incomplete, or so large that it may be a decompression bomb, before
    decoding it.
    """
    with photo_file(path) as file:
        return open_rgb(file)


def read_bands(path: str | Path, num_bands: int | None = None) -> np.ndarray:
    """The photo in a .npy, TIFF or other image file, as it is stored.

    Args:
        path (`str` or `Path`): A .npy file of an array `(height, width, bands)`, `(bands, height, width)` or
            `(height, width)`; a TIFF file with any number of bands, which takes rasterio; or a photo that Pillow
            reads.
        num_bands (`int`, *optional*): How many bands there must be.

    Returns:
        `np.ndarray` of shape `(height, width, bands)`, of the type that is stored.

    Raises:
        `ValueError`: names the file, if it cannot be read, holds NaN, infinity or pixels without data (`nodata`), has
            another number of bands, or is too large.

    Example:

    ```python
    >>> import numpy as np
    >>> from setr_hf.model.bands_setr import read_bands

    >>> np.save("field.npy", np.zeros((40, 60, 13), dtype=np.uint16))
    >>> read_bands("field.npy").shape
    (40, 60, 13)
    ```
    """
    with photo_file(path) as file:
        return bands_in(file, num_bands)


def is_opaque(dataset: Any) -> bool:
    """Whether the fourth band of a TIFF file is an alpha channel in which nothing is transparent."""
    return dataset.colorinterp[3].name == "alpha" and int(dataset.read(4).min()) == 255


def num_bands_in(file: BinaryIO) -> int | None:
    """How many bands the photo in an open file has; `None` if it is an ordinary one, which is handled as 8-bit RGB:
    all that are neither .npy nor TIFF, and those that hold 8-bit RGB, with a fourth band if that is an opaque alpha
    channel, palette colours or CMYK. Without rasterio TIFF files are ordinary photos.
    """
    kind = kind_of_file(file)
    if kind == "npy":
        shape, dtype = npy_header(file)
        count = min(shape[0], shape[-1]) if len(shape) == 3 else 1
        return None if count == 3 and dtype == np.uint8 else count
    if kind is None:
        return None
    try:
        rasterio_module()
    except ValueError:
        return None
    with tiff_dataset(file) as dataset:
        is_8_bit, count = set(dataset.dtypes) == {"uint8"}, dataset.count
        if is_8_bit and (count == 3 or dataset.colorinterp[0].name in ("palette", "cyan")):
            return None
        bits = int(dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
        if is_8_bit and (bits < 8 or (count == 4 and is_opaque(dataset))):
            return None
        return count


def scaled_by_type(image: np.ndarray | torch.Tensor, is_scaled: bool = True) -> np.ndarray | torch.Tensor:
    """Intensities as float32: integers, if `is_scaled`, divided by the largest number of their type, such as 65535, so
    that unsigned ones lie within 0 and 1; floating-point numbers as they are. 8-bit unsigned ones are returned
    unchanged, as they are resized in 8 bits, and divided by 255 afterwards.
    """
    if isinstance(image, torch.Tensor):
        if image.dtype == torch.uint8:
            return image
        scaled = image.to(torch.float32)
        return scaled if image.is_floating_point() or not is_scaled else scaled * (1 / torch.iinfo(image.dtype).max)
    if image.dtype == np.uint8:
        return image
    with np.errstate(over="ignore"):  # What float32 does not hold is infinite, and refused as such.
        bands = image.astype(np.float32)
    is_float = image.dtype.kind == "f"
    return bands if is_float or not is_scaled else bands * np.float32(1 / np.iinfo(image.dtype).max)


__all__ = ["load_photo", "read_bands"]
