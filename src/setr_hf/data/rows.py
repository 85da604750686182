"""A segmentation data set as one object: its rows, the meaning of their annotations, and the one reader of both."""

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from datasets import Array2D, Array3D, Dataset, Image, IterableDataset, LargeList, List, Value
from datasets.exceptions import DatasetsError
from datasets.utils.file_utils import is_local_path, xopen
from PIL import Image as PILImage

from ..errors import SetrError
from ..files import check_is_file
from ..model.bands_setr import bands_in, bands_last, check_nodata, check_num_bands, num_bands_in, open_rgb
from ..model.photos_setr import Photo, array_to_rgb, pil_to_rgb, reason_of, size_of_photo, upright
from ..text import one_line
from .label_sets import LabelSet


@dataclass(frozen=True)
class Sample:
    """An upright photo, an array `(height, width, bands)` if it is one of bands, and its label map, uint8 `(height,
    width)`, 255 where ignored; `None` without annotation.
    """

    name: str
    photo: Photo
    label_map: np.ndarray | None


@dataclass(frozen=True)
class LabelledSample(Sample):
    """A sample that has a label map."""

    label_map: np.ndarray


@dataclass(frozen=True)
class SegmentationData:
    """A split of a segmentation data set. Iterating over it, or `data[index]`, reads [`Sample`]s.

    Args:
        rows (`datasets.Dataset` or `datasets.IterableDataset`): The columns `image`, `annotation` and `name`. Test
            splits that are published without annotations have no `annotation`.
        label_set (`LabelSet`): What the pixel values of the annotations mean.
        num_bands (`int`, *optional*): How many bands each photo must have, which is then an array; by default photos
            are PIL images of any mode.

    Example:

    ```python
    >>> from setr_hf.data.scenes import make_scenes

    >>> data = make_scenes(count=2, first_seed=0)
    >>> len(data), data[0].name, data[0].photo.size, data[0].label_map.shape
    (2, 'scene_0', (160, 128), (128, 160))
    >>> data.label_set.names[:3]
    ['sky', 'grass', 'road']
    ```
    """

    rows: Dataset | IterableDataset
    label_set: LabelSet
    num_bands: int | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return self.read(self.undecoded[index])

    def __iter__(self) -> Iterator[Sample]:
        return map(self.read, self.undecoded)

    @property
    def is_stream(self) -> bool:
        """Whether the rows are read while iterating: they have neither a number nor an index."""
        return isinstance(self.rows, IterableDataset)

    @property
    def has_annotations(self) -> bool:
        """Whether the split was published with annotations; single ones may be missing all the same."""
        return "annotation" in self.rows.column_names

    @cached_property
    def undecoded(self) -> Dataset | IterableDataset:
        """The rows with image files as `{"path": …, "bytes": …}`, which [`read`] takes."""
        rows = self.rows
        for column in image_columns(rows):
            rows = rows.cast_column(column, Image(decode=False))
        return rows

    @cached_property
    def array_dtype(self) -> np.dtype | None:
        """The type of the photos in a column of arrays; `None` if the photos are image files."""
        return dtype_of_arrays((self.rows.features or {}).get("image"))

    def with_bands(self, num_bands: int | None) -> "SegmentationData":
        """The same data, its photos read with this number of bands; as ordinary photos if it is `None`."""
        return replace(self, num_bands=num_bands)

    def with_bands_of_files(self) -> "SegmentationData":
        """The same data, with the number of bands that the first photo has; of a stream, only if it holds arrays, as
        its files may be far away.
        """
        if self.is_stream and self.array_dtype is None:
            return self
        row = next(iter(self.undecoded), None)
        return self.with_bands(row and self.num_bands_of(row))

    def num_bands_of(self, row: dict) -> int | None:
        """The number of bands of the photo in an [`undecoded`] row, `None` for ordinary photos, see [`num_bands_in`],
        and for what cannot be read, which [`read`] will say.
        """
        image = row["image"]
        try:
            if image is not None and self.array_dtype is not None:
                count = bands_last(np.asarray(image, self.array_dtype)).shape[-1]
                return None if count == 3 and self.array_dtype == np.uint8 else count
            if image is None or not may_have_bands(image):
                return None
            with open_file(image) as stream:
                return num_bands_in(stream)
        except Exception:  # Damaged files break their readers wherever they happen to.
            return None

    def read(self, row: dict) -> Sample:
        """The sample in an [`undecoded`] row. A [`SetrError`] names a sample that cannot be used, and why."""
        name = row["name"]
        if row["image"] is None:
            raise SetrError(f"{name} has no image")
        photo, label_map = self.read_photo(row["image"], f"the image of {name}"), None
        if isinstance(photo, PILImage.Image) and photo.mode.startswith(("F", "I")):
            # Their intensities may be out of range, which must show while the sample's name is known.
            try:
                photo = pil_to_rgb(photo)
            except ValueError as error:
                raise SetrError(f"the image of {name} cannot be read: {error}") from error
        if row.get("annotation") is not None:
            annotation = decode(row["annotation"], f"the annotation of {name}")
            label_map = self.label_set.encode(annotation, name, size_of_photo(photo)[::-1])
        return Sample(name, photo, label_map)

    def read_photo(self, image: Any, what: str) -> Photo:
        """The photo in a file, or a row of a column of arrays; errors are those of [`opened`]."""
        if self.array_dtype is not None:
            try:
                bands = bands_last(np.asarray(image, self.array_dtype), self.num_bands)
                check_nodata(bands, None)
                check_num_bands(bands.shape[-1], self.num_bands)
                return array_to_rgb(bands) if self.num_bands is None else bands
            except ValueError as error:
                raise SetrError(f"{what} cannot be read: {reason_of(error)}") from error
        return decode(image, what) if self.num_bands is None else decode_bands(image, what, self.num_bands)

    def read_labelled(self, row: dict) -> LabelledSample:
        """As [`read`], for a sample that must have an annotation; raises a [`SetrError`] if it has none."""
        sample = self.read(row)
        if sample.label_map is None:
            raise SetrError(f"{sample.name} has no annotation")
        return LabelledSample(sample.name, sample.photo, sample.label_map)

    def select(self, indices: Iterable[int]) -> "SegmentationData":
        """The samples at `indices`, in that order."""
        return replace(self, rows=self.rows.select(indices))

    def check_annotations(self) -> None:
        """Raises a [`SetrError`] if the split has no annotations."""
        if not self.has_annotations:
            raise SetrError("this split has no annotations, as is usual for test splits of benchmarks: choose another")

    def in_memory(self) -> "SegmentationData":
        """A stream read to its end, its images still encoded; other data as it is. Raises a [`SetrError`] for a stream
        without rows, or one that cannot be read.
        """
        if not isinstance(self.rows, IterableDataset):
            return self
        undecoded = list(each_row(self.undecoded))
        if not undecoded:
            raise SetrError("the split holds no rows")
        rows = Dataset.from_list(undecoded, features=self.undecoded.features)
        for column in image_columns(rows):
            rows = rows.cast_column(column, Image())
        return replace(self, rows=rows)

    def missing_annotations(self) -> list[str]:
        """The names of the samples without annotation, in a split in which others have one."""
        if not self.has_annotations:
            return []
        table = self.undecoded.select_columns(["annotation", "name"]).with_format("arrow")[:]
        return table["name"].filter(table["annotation"].is_null()).to_pylist()


def image_columns(rows: Dataset | IterableDataset) -> list[str]:
    """Which of the columns `image` and `annotation` hold image files."""
    features = rows.features or {}
    columns = [column for column in ("image", "annotation") if column in rows.column_names]
    return [column for column in columns if dtype_of_arrays(features.get(column)) is None]


def dtype_of_arrays(feature: Any) -> np.dtype | None:
    """The type of the numbers in a column of arrays: an `Array2D`, `Array3D` or list of lists. Else `None`."""
    if isinstance(feature, Array2D | Array3D):
        return np.dtype(feature.dtype)
    depth = 0
    while isinstance(feature, list | List | LargeList):
        feature, depth = feature[0] if isinstance(feature, list) else feature.feature, depth + 1
    try:
        return np.dtype(feature.dtype) if depth in (2, 3) and isinstance(feature, Value) else None
    except TypeError:  # Of strings.
        return None


def may_have_bands(file: dict) -> bool:
    """Whether an image file can be one of bands, as far as its name says, if it has one."""
    name = str(file["path"] or "").lower()
    return not name or name.endswith((".npy", ".tif", ".tiff"))


@contextmanager
def reading(what: str | Path) -> Iterator[None]:
    """Makes a [`SetrError`] of what datasets raises for content that it cannot make rows of."""
    try:
        yield
    except SetrError:
        raise
    except (DatasetsError, ValueError, pa.ArrowException) as error:
        raise SetrError(f"{what} cannot be read: {one_line(error.__cause__ or error, 300)}") from error


def each_row(rows: IterableDataset) -> Iterator[dict]:
    """The rows of a stream; see [`reading`]."""
    with reading("the stream"):
        yield from rows


def open_file(file: dict) -> BinaryIO:
    """The image file of an [`undecoded`] row: in memory, on the disk or, of a stream, on the Hub."""
    if file["bytes"] is not None:
        return io.BytesIO(file["bytes"])
    path = file["path"]
    if os.path.lexists(path) or is_local_path(path):
        check_is_file(Path(path))  # A pipe would be waited for.
        return open(path, "rb")
    return xopen(path, "rb")


@contextmanager
def opened(file: dict, what: str) -> Iterator[BinaryIO]:
    """The [`open_file`], for a block that reads it; a [`SetrError`] calls it `what` if it cannot be read."""
    try:
        with open_file(file) as stream:
            yield stream
    # Readers of damaged files raise many types.
    except Exception as error:
        where = f" ({file['path']})" if file["path"] and file["bytes"] is None else ""
        raise SetrError(f"{what}{where} cannot be read: {reason_of(error)}") from error


def decode(file: dict, what: str, as_stored: bool = False) -> PILImage.Image:
    """The picture in an image file, upright or `as_stored`, which keeps what is known of its file. Errors are those of
    [`opened`].
    """
    with opened(file, what) as stream:
        picture = open_rgb(stream)
        return picture if as_stored else upright(picture)


def decode_bands(file: dict, what: str, num_bands: int) -> np.ndarray:
    """The photo in an image file as an array, see [`read_bands`]. Errors are those of [`opened`]."""
    with opened(file, what) as stream:
        return bands_in(stream, num_bands)


def row_name(given: Any, path: str | None, index: int) -> str:
    """The name that a row was `given`; of one without, that of its image file without the suffix, else its number."""
    if given is not None:
        return str(given)
    return PurePosixPath(path).stem if path else str(index)
