"""Pictures too large for the memory: read, segmented and written one row of windows after the other.

Each row of windows ends a strip of the label map: what no later window bears on. Finished strips are kept beside the
result until it is whole, so that a job that was stopped at any time goes on with the next one.
"""

import os
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, TiffImagePlugin
from transformers import BaseImageProcessor, PreTrainedModel

from ..errors import SetrError
from ..files import check_is_file, folder_lock, remove, whole_file, write_json
from ..model import bands_setr
from ..model.bands_setr import check_band_types, check_extent, check_nodata, check_num_bands
from ..model.image_processing_setr import check_logits, window_starts
from ..model.label_maps_setr import AxisWeights, WindowGrid, best_labels, score_tiles
from ..model.photos_setr import Photo, reason_of
from ..progress import progress_bar
from .arguments import WINDOW_BATCH_SIZE
from .loading import read_object
from .output_folder import photo_state
from .settings import check_settings, model_settings
from .sliding_windows import full_memory_named, inputs_of, users_mistakes


# The first bytes of the formats that are read by windows, and what GDAL calls these. It knows many more, some of which
# name other files, or web addresses, to read.
FORMATS = {b"II*\0": "GTiff", b"MM\0*": "GTiff", b"II+\0": "GTiff", b"MM\0+": "GTiff"}
FORMATS |= {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG"}
BLOCK_SIZE = 256
# MB of decoded blocks, by default a twentieth of the memory. Those of one row suffice, as rows are read in order.
BLOCK_CACHE = 64
# Pixels; several times the largest scans of a microscope.
LONGEST_SIDE = 2**20
SETTINGS_FILE = "settings.json"


def is_too_large(path: str | Path, num_bands: int | None = None) -> bool:
    """Whether the picture in a file is too large to be decoded at once: more than twice `PIL.Image.MAX_IMAGE_PIXELS`,
    which are 179 megapixels; of a TIFF file of `num_bands`, if these are given, see [`check_extent`].
    """
    if not os.path.isfile(path):  # A pipe would be waited for.
        return False
    if num_bands is not None:
        try:
            with open_picture(path, num_bands) as picture:
                check_extent(picture.height, picture.width, num_bands)
        except SetrError:  # As below.
            return False
        except ValueError:
            return True
        return False
    try:
        with Image.open(path):
            return False
    except Image.DecompressionBombError:
        return True
    except Exception:  # Whatever else is wrong with it, the one who reads it says.
        return False


def rasterio_module() -> Any:
    """The library that reads and writes pictures by windows, of the extra `large`."""
    try:
        return bands_setr.rasterio_module()
    except ValueError:
        raise SetrError("pictures are read by windows with rasterio: pip install 'setr-hf[large]'") from None


@contextmanager
def opened(path: Path, mode: str = "r", **options: Any) -> Iterator[Any]:
    """The dataset of rasterio in a file. Its errors become a [`SetrError`] that names the file."""
    rasterio = rasterio_module()
    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=BLOCK_CACHE):
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            # Absolute, as what looks like a web address or an archive would be taken for one.
            with rasterio.open(os.path.abspath(path), mode, **options) as dataset:
                yield dataset
    except Exception as error:
        if not type(error).__module__.startswith("rasterio"):  # Those of GDAL, which may pass, have no public base.
            raise
        # The reason is in GDAL's error, its cause, without which rasterio's says only that there is one.
        reason = reason_of(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        raise SetrError(f"{path} cannot be {'read as a photo' if mode == 'r' else 'written'}: {reason}") from error


def orientation(path: Path, dataset: Any) -> int:
    """The EXIF orientation of a picture: 1 if it is upright, or does not say. PNG files are taken to be upright."""
    try:
        if dataset.driver == "GTiff":
            header = TiffImagePlugin.TiffImageFile(path)
            with header:
                return int(header.tag_v2.get(ExifTags.Base.Orientation, 1))
        return int(dataset.tags().get("EXIF_Orientation", 1))
    except Exception:  # Damaged EXIF data is dropped here as in all photos, and Pillow cannot read every TIFF file.
        return 1


class LargePicture:
    """A picture in a file, of which rows are read as RGB, or with all of its `num_bands`; see [`open_picture`]."""

    def __init__(self, path: Path, dataset: Any, num_bands: int | None = None):
        self.path, self.dataset, self.num_bands = path, dataset, num_bands
        self.height, self.width = dataset.height, dataset.width
        if max(self.height, self.width) > LONGEST_SIDE:
            raise SetrError(
                f"{path} has {self.height}×{self.width} pixels: its sides may have {LONGEST_SIDE:,} at most"
            )
        if orientation(path, dataset) != 1:
            raise SetrError(f"{path} has an EXIF orientation that turns it: save a copy that is upright without")
        if num_bands is None:
            self.check_is_rgb()
        else:
            try:
                check_num_bands(dataset.count, num_bands)
                check_band_types(dataset)
            except ValueError as error:
                raise SetrError(f"{path} cannot be read as a photo: {error}") from error

    def check_is_rgb(self) -> None:
        """Raises [`SetrError`] unless RGB of 8 bits can be read of the picture, and reads its palette."""
        path, dataset = self.path, self.dataset
        self.is_palette = dataset.count == 1 and dataset.colorinterp[0].name == "palette"
        types = sorted(set(dataset.dtypes))
        num_bits = int(dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
        if types != ["uint8"] or (num_bits != 8 and not self.is_palette):
            kind = f"{num_bits} bits" if types == ["uint8"] else " and ".join(types)
            raise SetrError(f"{path} has intensities of {kind}, not 8 bits: save a copy that has")
        if dataset.count > 4 or getattr(dataset.photometric, "name", None) == "cmyk":
            raise SetrError(f"{path} has {dataset.count} bands that are not RGB: save a copy of red, green and blue")
        self.palette = np.zeros((256, 3), np.uint8)
        for index, color in dataset.colormap(1).items() if self.is_palette else ():
            self.palette[index] = color[:3]

    def no_rows(self) -> np.ndarray:
        """What [`read`] returns of no rows."""
        dtype = np.uint8 if self.num_bands is None else self.dataset.dtypes[0]
        return np.empty((0, self.width, self.num_bands or 3), dtype)

    def read(self, rows: slice | None = None, size: tuple[int, int] | None = None) -> np.ndarray:
        """RGB of some rows, or all: uint8 `(rows, width, 3)`; or of the nearest pixels at another height and width. Of
        a picture of bands, these `(rows, width, num_bands)`. Raises [`SetrError`] for pixels without data.
        """
        if self.num_bands is not None:
            window = None if rows is None else ((rows.start, rows.stop), (0, self.width))
            shape = None if size is None else (self.num_bands, *size)
            pixels = np.moveaxis(self.dataset.read(window=window, out_shape=shape), 0, -1)
            try:
                check_nodata(pixels, self.dataset.nodata)
            except ValueError as error:
                raise SetrError(f"{self.path} cannot be read as a photo: {error}") from error
            return pixels
        bands = [1, 2, 3] if self.dataset.count >= 3 else [1]
        window = None if rows is None else ((rows.start, rows.stop), (0, self.width))
        shape = None if size is None else (len(bands), *size)
        pixels = self.dataset.read(bands, window=window, out_shape=shape).transpose(1, 2, 0)
        if self.is_palette:
            return self.palette[pixels[..., 0]]
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


@contextmanager
def open_picture(path: str | Path, num_bands: int | None = None) -> Iterator[LargePicture]:
    """A TIFF, PNG or JPEG file to be read by rows: 8-bit RGB, gray or palette colours; a band beyond these is dropped.
    With `num_bands` it has as many, of any type. Raises [`SetrError`] that names the file if it is of another kind or
    damaged, or is to be turned.
    """
    path = Path(path)
    check_is_file(path)
    try:
        with open(path, "rb") as file:
            first_bytes = file.read(4)
    except OSError as error:
        raise SetrError(f"{path} cannot be read as a photo: {error.strerror}") from error
    driver = next((name for start, name in FORMATS.items() if first_bytes.startswith(start)), None)
    if driver is None:
        raise SetrError(f"{path} cannot be read by windows: it is not a TIFF, PNG or JPEG file")
    with opened(path, driver=driver) as dataset:
        yield LargePicture(path, dataset, num_bands)


class Strips:
    """The rows of windows over a picture, and the strips of its label map that each of them ends."""

    def __init__(self, picture: LargePicture, processor: BaseImageProcessor):
        self.picture, self.processor = picture, processor
        crop, stride = processor.crop_size, processor.stride
        self.tops = window_starts(picture.height, crop.height, stride)
        self.lefts = window_starts(picture.width, crop.width, stride)
        self.window_height, self.window_width = min(crop.height, picture.height), min(crop.width, picture.width)

    def __len__(self) -> int:
        return len(self.tops)

    def rows(self, index: int) -> slice:
        """The rows of pixels of a strip."""
        return slice(self.tops[index], [*self.tops, self.picture.height][index + 1])

    def needed(self, index: int) -> range:
        """The rows of windows that bear on a strip; the last has its number."""
        return range(bisect_right(self.tops, self.tops[index] - self.window_height), index + 1)

    def bands(self, rows: list[int]) -> Iterator[np.ndarray]:
        """The pixels `(window_height, width, bands)` of some rows of windows, in order. None is read twice, for which
        PNG and JPEG files would have to be decoded anew from their beginning.
        """
        band, start = self.picture.no_rows(), 0
        for top in (self.tops[row] for row in rows):
            band, begin = band[top - start :], max(top, start + len(band))
            band, start = np.concatenate([band, self.picture.read(slice(begin, top + self.window_height))]), top
            yield band

    def logits(self, model: PreTrainedModel, band: np.ndarray, window_batch_size: int) -> Iterator[torch.Tensor]:
        """Logits `(num_windows, num_labels, h, w)` of the windows of a row, some at a time."""
        for start in range(0, len(self.lefts), window_batch_size):
            lefts = self.lefts[start : start + window_batch_size]
            arrays = [band[:, left : left + self.window_width] for left in lefts]
            is_rgb = self.picture.num_bands is None
            windows: list[Photo] = [Image.fromarray(array) if is_rgb else array for array in arrays]
            inputs = inputs_of(self.processor, windows, do_resize=False).to(model.device)
            with torch.inference_mode():
                logits = model(**inputs).logits
            with users_mistakes():
                check_logits(logits, inputs["patch_offsets"])
            yield logits[:, 0]

    def grid(self, height: int, width: int) -> WindowGrid:
        """How the scores of the picture come from logits of this resolution."""
        picture, are_resized = self.picture, height < self.window_height or width < self.window_width
        rows, columns = (
            [(top, self.window_height) for top in self.tops],
            [(left, self.window_width) for left in self.lefts],
        )
        return WindowGrid(
            AxisWeights(rows, picture.height, height, are_resized, picture.height),
            AxisWeights(columns, picture.width, width, are_resized, picture.width),
        )

    def labels(
        self, model: PreTrainedModel, window_batch_size: int, wanted: list[int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The number and the label map of each of the `wanted` strips, in order."""
        dtype = np.uint8 if model.config.num_labels <= 256 else np.uint16
        threshold = self.processor.logit_threshold
        num_kept = max(len(self.needed(index)) for index in range(len(self)))
        rows = sorted({row for index in wanted for row in self.needed(index)})
        kept = torch.empty(0)
        for row, band in zip(rows, self.bands(rows)):
            start = 0
            for logits in self.logits(model, band, window_batch_size):
                if not len(kept):
                    kept = logits.new_empty((num_kept, len(self.lefts), *logits.shape[1:]))
                kept[row % num_kept, start : start + len(logits)] = logits
                start += len(logits)
            if row in wanted:
                strip = self.rows(row)
                labels = np.empty((strip.stop - strip.start, self.picture.width), dtype)
                for pixels, columns, scores in score_tiles(kept, self.grid(*kept.shape[-2:]), strip):
                    part = slice(pixels.start - strip.start, pixels.stop - strip.start)
                    labels[part, columns] = best_labels(scores, threshold).cpu()
                yield row, labels


def claim(folder: Path, settings: dict) -> None:
    """Makes a folder one of strips that depend on these `settings`; those of a picture that has changed since are
    deleted. Raises [`SetrError`] if it holds strips of another model or image processor.
    """
    path = folder / SETTINGS_FILE
    strips = strips_in(folder)
    if strips and path.exists() and read_object(path).get("picture") != settings["picture"]:
        for strip in strips:
            strip.unlink()
        strips = []
    if strips:
        check_settings(path, settings, has_results=True)
    write_json(path, settings)


def strip_file(folder: Path, index: int) -> Path:
    return folder / f"{index:06}.npz"


def strips_in(folder: Path) -> list[Path]:
    return list(folder.glob("[0-9]*.npz"))


def read_strip(folder: Path, index: int) -> np.ndarray:
    path = strip_file(folder, index)
    try:
        with np.load(path, allow_pickle=False) as content:
            return content["labels"]
    except Exception as error:  # zipfile and NumPy have many for damaged files.
        raise SetrError(f"{path} is damaged: delete it, and it is computed again") from error


def write_label_map(folder: Path, strips: Strips, output: Path) -> np.ndarray:
    """Writes the label map that the strips in `folder` make up, with the georeference of the picture. Returns how many
    pixels each class has.

    The file depends on the label map alone: its blocks are written in order, each once.
    """
    source, first = strips.picture.dataset, read_strip(folder, 0)
    options = {"count": 1, "height": source.height, "width": source.width, "dtype": first.dtype, "rpcs": source.rpcs}
    options |= {"tiled": True, "blockxsize": BLOCK_SIZE, "blockysize": BLOCK_SIZE, "compress": "deflate"}
    options |= {"bigtiff": "if_safer", "crs": source.crs}
    points, points_crs = source.gcps
    if points:
        options |= {"gcps": points, "crs": points_crs}
    elif not source.transform.is_identity:
        options["transform"] = source.transform
    counts = np.zeros(np.iinfo(first.dtype).max + 1, np.int64)
    with whole_file(output) as unfinished:
        with opened(unfinished, "w", driver="GTiff", **options) as dataset:
            rows, start = first[:0], 0
            for index in range(len(strips)):
                strip = read_strip(folder, index)
                counts += np.bincount(strip.flat, minlength=len(counts))
                rows = np.concatenate([rows, strip])
                is_last = index == len(strips) - 1
                whole = len(rows) if is_last else len(rows) // BLOCK_SIZE * BLOCK_SIZE
                if whole:
                    dataset.write(rows[:whole], 1, window=((start, start + whole), (0, source.width)))
                rows, start = rows[whole:], start + whole
        if not holds(unfinished, counts):
            raise SetrError(f"{output} is not written: what was read back is damaged. Is its disk full?")
    return counts


def holds(path: Path, counts: np.ndarray) -> bool:
    """Whether all of a label map can be read and has this many pixels of each class: GDAL does not say if the disk
    takes only a part of what it writes.
    """
    counts = counts.copy()
    try:
        with opened(path, driver="GTiff") as dataset:
            for start in range(0, dataset.height, BLOCK_SIZE):
                window = ((start, min(start + BLOCK_SIZE, dataset.height)), (0, dataset.width))
                counts -= np.bincount(dataset.read(1, window=window).flat, minlength=len(counts))
    except SetrError:
        return False
    return not counts.any()


def segment_large_picture(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    path: str | Path,
    output: str | Path,
    window_batch_size: int = WINDOW_BATCH_SIZE,
    show_progress: bool = False,
) -> np.ndarray:
    """Segments a picture of any size at its own resolution, and writes its label map.

    The paper's sliding windows, `crop_size` wide and `stride` apart, lie over the picture as it is: it is not resized.
    Memory holds a few rows of windows and their logits. Stopped at any time and called again, it goes on: finished
    strips are in the folder `OUTPUT.strips` until the label map is there, which has the same bytes as without a stop;
    if the picture has changed meanwhile, it begins anew.

    Args:
        model ([`SetrForSemanticSegmentation`]): In evaluation mode, on any device.
        processor ([`SetrImageProcessor`]): With `do_split_image=True`. Its `size` has no effect.
        path (`str` or `Path`): A TIFF, PNG or JPEG file of 8-bit RGB, gray or palette colours. A fourth band, such as
            alpha, is dropped. For models of another number of bands, a file with as many, of any type. JPEG is decoded
            by GDAL, whose pixels differ a little from Pillow's.
        output (`str` or `Path`): The TIFF file to write, tiled and compressed without loss (deflate), of class ids
            of 8 bits, or 16 for more than 256 classes. It has the georeference of the picture, if there is one.
        window_batch_size (`int`, *optional*, defaults to 8): How many windows the model takes at a time.
        show_progress (`bool`, *optional*, defaults to `False`): Whether to show a bar with the time that is left.

    Returns:
        `np.ndarray` of shape `(256,)` or `(65536,)`: How many pixels have each class id.

    Raises:
        [`SetrError`]: the picture cannot be read, is not of 8 bits, is CMYK, has more than four bands, or other bands
            than the model takes, pixels without data, an EXIF orientation that turns it or a side of more than 2²⁰
            pixels; the processor does not cut windows; `window_batch_size` is less than 1; `OUTPUT.strips` holds
            strips of another model or processor; the disk or the memory is full; the logits are not finite; or
            rasterio, which is in the extra `large`, is not installed.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor, segment_large_picture

    >>> config = SetrConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=4, image_size=64, num_labels=5)
    >>> model = SetrForSemanticSegmentation(config).eval()
    >>> processor = SetrImageProcessor(do_split_image=True, crop_size=64, stride=43)
    >>> folder = Path(tempfile.mkdtemp())
    >>> Image.new("RGB", (200, 100)).save(folder / "city.tif")
    >>> counts = segment_large_picture(model, processor, folder / "city.tif", folder / "label_map.tif")
    >>> int(counts.sum()), Image.open(folder / "label_map.tif").size
    (20000, (200, 100))
    ```
    """
    path, output = Path(path), Path(output)
    if not isinstance(window_batch_size, int) or window_batch_size < 1:
        raise SetrError(f"window_batch_size must be at least 1, got {window_batch_size!r}")
    if not processor.do_split_image:
        raise SetrError(
            "pictures are segmented at their own size by sliding windows, but this model's image processor resizes "
            "each to one size: set do_split_image=True, crop_size and stride in its preprocessor_config.json"
        )
    if output.exists() and path.exists() and output.samefile(path):
        raise SetrError(f"{output} is the picture itself: name another output")
    folder = output.with_name(f"{output.name}.strips")
    with open_picture(path, processor.num_bands) as picture, full_memory_named([picture]):
        strips = Strips(picture, processor)
        with folder_lock(folder):
            settings = {**model_settings(model, processor), "picture": photo_state(path)}
            claim(folder, settings)
            try:
                wanted = [index for index in range(len(strips)) if not strip_file(folder, index).exists()]
                num_done = len(strips) - len(wanted)
                with progress_bar(
                    len(strips), "row of windows", initial=num_done, disable=not show_progress
                ) as progress:
                    for index, labels in strips.labels(model, window_batch_size, wanted):
                        with whole_file(strip_file(folder, index)) as unfinished:
                            np.savez_compressed(unfinished, labels=labels)
                        progress.update()
                counts = write_label_map(folder, strips, output)
                # The settings last: strips without them would be taken for those of another job.
                for index in range(len(strips)):
                    strip_file(folder, index).unlink()
            finally:
                if not strips_in(folder):
                    remove(folder)
    return counts
