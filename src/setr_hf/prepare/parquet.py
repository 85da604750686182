"""Writes a segmentation data set as parquet files that `load_dataset` reads, and checks what was written."""

import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, SplitDict, SplitInfo, Value

from ..cards.dataset_card import Source, dataset_card
from ..data.folders import SplitFiles
from ..data.label_sets import NAMES_FILE, LabelSet, write_names_file
from ..data.loading import load_segmentation_data
from ..data.rows import decode
from ..errors import SetrError
from ..files import whole_folder
from ..progress import progress_bar


FEATURES = Features({"image": Image(), "annotation": Image(), "name": Value("string")})
# Reading one row reads its row group. Streaming readers share out the shards, and hold up to two in memory (measured).
ROW_GROUP_BYTES = 16 * 2**20
ROW_GROUPS_PER_SHARD = 8


@dataclass(frozen=True)
class SourceImage:
    """A photo whose bytes are kept, and its annotation in the source's values, which errors call by a name."""

    path: Path
    open_annotation: Callable[[], PIL.Image.Image]
    annotation_name: str


def file_images(files: SplitFiles) -> list[SourceImage]:
    """The images of a folder whose annotations are image files. Raises a [`SetrError`] if one has no annotation, or an
    annotation has no image.
    """
    if files.unpaired:
        raise SetrError(f"{len(files.unpaired)} annotations have no image, the first is {files.unpaired[0]}")
    annotations = files.annotations or []
    missing = [image for image, annotation in zip(files.images, annotations) if not annotation.is_file()]
    if missing:
        raise SetrError(f"{len(missing)} images have no annotation, the first is {missing[0]}")
    return [
        SourceImage(image, partial(decode, {"path": str(path), "bytes": None}, "the annotation"), str(path))
        for image, path in zip(files.images, annotations)
    ]


def make_row(image: SourceImage, label_set: LabelSet) -> dict:
    """A row of the data set: the bytes of the photo's file, and the label map as the bytes of an 8-bit grayscale PNG.
    Raises a [`SetrError`] if a file cannot be read, sizes differ, or the annotation holds values without a meaning.
    """
    file = {"path": image.path.name, "bytes": image.path.read_bytes()}
    photo = decode(file, str(image.path))
    label_map = label_set.encode(image.open_annotation(), image.annotation_name, photo.size)
    png = io.BytesIO()
    PIL.Image.fromarray(label_map).save(png, format="PNG")
    annotation = {"path": f"{image.path.stem}.png", "bytes": png.getvalue()}
    return {"image": file, "annotation": annotation, "name": image.path.stem}


def row_groups(rows: Iterable[dict]) -> Iterator[list[dict]]:
    """Lists of consecutive rows, each ending with the row that takes it to `ROW_GROUP_BYTES`."""
    group, num_bytes = [], 0
    for row in rows:
        group.append(row)
        num_bytes += len(row["image"]["bytes"]) + len(row["annotation"]["bytes"])
        if num_bytes >= ROW_GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def write_shards(folder: Path, split: str, rows: Iterable[dict]) -> None:
    """Writes `{split}-{shard}-of-{shards}.parquet` files; memory holds one row group at a time."""
    schema = FEATURES.arrow_schema
    shards = []
    numbered = enumerate(row_groups(rows))
    for shard, groups in itertools.groupby(numbered, key=lambda item: item[0] // ROW_GROUPS_PER_SHARD):
        shards.append(folder / f"{split}-{shard:05d}.parquet")
        # JPEG and PNG are compressed already.
        with pq.ParquetWriter(shards[-1], schema, use_dictionary=False, compression="none") as writer:
            for _, group in groups:
                writer.write_table(pa.Table.from_pylist(group, schema=schema))
    for shard, path in enumerate(shards):
        path.rename(folder / f"{split}-{shard:05d}-of-{len(shards):05d}.parquet")


def split_infos(folder: Path, splits: Iterable[str]) -> SplitDict:
    """Rows and bytes of each split, from the metadata of the parquet files."""
    infos = SplitDict()
    for split in splits:
        files = [pq.ParquetFile(path).metadata for path in folder.glob(f"{split}-*.parquet")]
        num_bytes = sum(file.row_group(i).total_byte_size for file in files for i in range(file.num_row_groups))
        infos.add(SplitInfo(split, num_bytes=num_bytes, num_examples=sum(file.num_rows for file in files)))
    return infos


def verify_split(folder: Path, split: str, num_images: int) -> np.ndarray:
    """Reads a split that was written as training will, every row of it, and counts the pixels of each id, int64
    `(256,)`. Raises a [`SetrError`] if a row cannot be used, its annotation is not an 8-bit grayscale PNG, or rows are
    missing.
    """
    # Streaming reads the files themselves, without the copy that is otherwise made in the cache.
    data = load_segmentation_data(folder, split, streaming=True)
    num_rows, pixels = 0, np.zeros(256, dtype=np.int64)
    for row in progress_bar(num_images, "image", iterable=data.undecoded, desc=f"checking {split}"):
        png = PIL.Image.open(io.BytesIO(row["annotation"]["bytes"]))
        if (png.format, png.mode) != ("PNG", "L"):
            raise SetrError(f"the annotation of {row['name']} is a {png.format} of mode {png.mode}")
        pixels += np.bincount(data.read_labelled(row).label_map.ravel(), minlength=256)
        num_rows += 1
    if num_rows != num_images:
        raise SetrError(f"{folder} holds {num_rows} images of {split}, but {num_images} were written")
    return pixels


def write_dataset(
    output: str | Path, splits: dict[str, list[SourceImage]], label_set: LabelSet, source: Source, notes: list[str]
) -> dict[str, np.ndarray]:
    """Writes a data set to a new folder: parquet files with the photos' bytes, in the order of `splits`,
    `labels.json`, and a card with `notes`. Everything is verified before the folder gets its name: after an error
    there is no `output`. Returns each split's [`verify_split`]. Raises [`SetrError`] if `output` exists, a split is
    empty, or an image cannot be used.
    """
    for split, images in splits.items():
        if not images:
            raise SetrError(f"there are no images for the split {split!r}")
    with whole_folder(output) as folder:
        (folder / "data").mkdir()
        for split, images in splits.items():
            progress = progress_bar(len(images), "image", iterable=images, desc=f"writing {split}")
            write_shards(folder / "data", split, (make_row(image, label_set) for image in progress))
        write_names_file(folder / NAMES_FILE, label_set)
        infos = split_infos(folder / "data", splits)
        dataset_card(source, label_set, infos, FEATURES, notes).save(folder / "README.md")
        return {split: verify_split(folder, split, len(images)) for split, images in splits.items()}
