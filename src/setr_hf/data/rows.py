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
from datasets import Dataset, Image, IterableDataset
from datasets.exceptions import DatasetsError
from datasets.utils.file_utils import is_local_path, xopen
from PIL import Image as PILImage

from ..errors import SetrError
from ..files import check_is_file
from ..model.photos_setr import open_photo, pil_to_rgb, reason_of, upright
from ..text import one_line
from .label_sets import LabelSet


@dataclass(frozen=True)
class Sample:
    """An upright photo and its label map, uint8 `(height, width)`, 255 where ignored; `None` without annotation."""

    name: str
    photo: PILImage.Image
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
        for column in {"image", "annotation"}.intersection(rows.column_names):
            rows = rows.cast_column(column, Image(decode=False))
        return rows

    def read(self, row: dict) -> Sample:
        """The sample in an [`undecoded`] row. A [`SetrError`] names a sample that cannot be used, and why."""
        name = row["name"]
        if row["image"] is None:
            raise SetrError(f"{name} has no image")
        photo, label_map = decode(row["image"], f"the image of {name}"), None
        if photo.mode.startswith(("F", "I")):
            # Their intensities may be out of range, which must show while the sample's name is known.
            try:
                photo = pil_to_rgb(photo)
            except ValueError as error:
                raise SetrError(f"the image of {name} cannot be read: {error}") from error
        if row.get("annotation") is not None:
            annotation = decode(row["annotation"], f"the annotation of {name}")
            label_map = self.label_set.encode(annotation, name, photo.size)
        return Sample(name, photo, label_map)

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
        for column in {"image", "annotation"}.intersection(rows.column_names):
            rows = rows.cast_column(column, Image())
        return replace(self, rows=rows)

    def missing_annotations(self) -> list[str]:
        """The names of the samples without annotation, in a split in which others have one."""
        if not self.has_annotations:
            return []
        table = self.undecoded.select_columns(["annotation", "name"]).with_format("arrow")[:]
        return table["name"].filter(table["annotation"].is_null()).to_pylist()


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


def decode(file: dict, what: str, as_stored: bool = False) -> PILImage.Image:
    """The picture in an image file, upright or `as_stored`, which keeps what is known of its file. Raises a
    [`SetrError`] that calls it `what` if it cannot be read.
    """
    try:
        with open_file(file) as opened:
            picture = open_photo(opened)
            return picture if as_stored else upright(picture)
    # Pillow's readers of damaged files raise many types.
    except Exception as error:
        where = f" ({file['path']})" if file["path"] and file["bytes"] is None else ""
        raise SetrError(f"{what}{where} cannot be read: {reason_of(error)}") from error


def row_name(given: Any, path: str | None, index: int) -> str:
    """The name that a row was `given`; of one without, that of its image file without the suffix, else its number."""
    if given is not None:
        return str(given)
    return PurePosixPath(path).stem if path else str(index)
