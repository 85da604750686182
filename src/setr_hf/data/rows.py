"""A segmentation data set as one object: its rows, what the values of its annotations mean, and the reader of both."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
from datasets import Dataset, Image, IterableDataset
from PIL import Image as PILImage

from ..errors import SetrError
from .label_sets import LabelSet


@dataclass(frozen=True)
class Sample:
    """
    A photo with its label map.

    Args:
        name (`str`): What the data set calls it.
        photo (`PIL.Image.Image`): Upright, if an EXIF orientation says how.
        label_map (`np.ndarray` of shape `(height, width)`, *optional*): Class ids of the photo's pixels, uint8, 255
            where no class counts; `None` if there is no annotation.
    """

    name: str
    photo: PILImage.Image
    label_map: np.ndarray | None


@dataclass(frozen=True)
class SegmentationData:
    """
    A split of a segmentation data set. Iterating over it, or `data[index]`, reads [`Sample`]s.

    Args:
        rows (`datasets.Dataset` or `datasets.IterableDataset`): With the columns `image`, `annotation` and `name`.
            Test splits that are published without annotations have no such column.
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
        """Whether the rows are read while iterating, and neither counted nor reached by index."""
        return isinstance(self.rows, IterableDataset)

    @property
    def has_annotations(self) -> bool:
        return "annotation" in self.rows.column_names

    @cached_property
    def undecoded(self) -> Dataset | IterableDataset:
        """The rows with image files as `{"path": …, "bytes": …}`, for [`read`] and to pass them on as they are."""
        rows = self.rows
        for column in {"image", "annotation"}.intersection(rows.column_names):
            rows = rows.cast_column(column, Image(decode=False))
        return rows

    def read(self, row: dict) -> Sample:
        """
        The sample of an [`undecoded`] row.

        Raises:
            [`SetrError`]: the image or the annotation cannot be read, they differ in size, or the annotation holds
                values without a meaning; names the sample, and the file if there is one.
        """
        photo, annotation = decode(row, "image"), decode(row, "annotation")
        if photo is None:
            raise SetrError(f"{row['name']} has no image")
        label_map = None if annotation is None else self.label_set.encode(annotation, row["name"], photo.size)
        return Sample(row["name"], photo, label_map)

    def read_labelled(self, row: dict) -> Sample:
        """As [`read`], for a sample that must have an annotation."""
        sample = self.read(row)
        if sample.label_map is None:
            raise SetrError(f"{sample.name} has no annotation")
        return sample

    def select(self, indices: Iterable[int]) -> "SegmentationData":
        """The samples at `indices`, in that order."""
        return replace(self, rows=self.rows.select(indices))

    def check_annotations(self):
        """
        Raises:
            [`SetrError`]: the split has no annotations.
        """
        if not self.has_annotations:
            raise SetrError("this split has no annotations, as is usual for test splits of benchmarks: choose another")

    def missing_annotations(self) -> list[str]:
        """The names of the images that have no annotation, in a data set in which others have one."""
        if not self.has_annotations:
            return []
        table = self.undecoded.select_columns(["annotation", "name"]).with_format("arrow")[:]
        return table["name"].filter(table["annotation"].is_null()).to_pylist()


def decode(row: dict, column: str) -> PILImage.Image | None:
    """The picture in a column of an undecoded row, `None` if there is none; see [`SegmentationData.read`]."""
    file = row.get(column)
    if file is None:
        return None
    try:
        return Image().decode_example(file)
    # Pillow's readers of damaged files raise many types.
    except Exception as error:
        where = f" ({file['path']})" if file["path"] and file["bytes"] is None else ""
        raise SetrError(f"the {column} of {row['name']}{where} cannot be read: {error}") from error


def row_name(path: str | None, index: int) -> str:
    """What a row without a name is called: its image file without the suffix, else its number."""
    return PurePosixPath(path).stem if path else str(index)
