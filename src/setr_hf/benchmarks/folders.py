"""The data set of a benchmark as a folder of files, which all codes read."""

import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ..data.arguments import load_data
from ..data.loading import load_segmentation_data
from ..data.rows import SegmentationData
from ..data.scenes import make_scenes
from ..files import temporary_folder


# The options that say which data set.
SOURCE_OPTIONS = ("split", "dataset_config", "dataset_revision", "image_column", "annotation_column", "labels")
DATA_OPTIONS = ("dataset", "num_images", *SOURCE_OPTIONS)


def write_folder(data: SegmentationData, folder: Path) -> None:
    """Writes the photos as they are and their label maps, as [`load_segmentation_data`] reads them."""
    for kind in ("images", "annotations"):
        (folder / kind / "val").mkdir(parents=True)
    for index, row in enumerate(data.undecoded):
        content, path = row["image"]["bytes"], row["image"]["path"]
        photo = folder / "images/val" / f"{index:05}{Path(path or '.png').suffix or '.jpg'}"
        photo.write_bytes(content if content is not None else Path(path).read_bytes())
        Image.fromarray(data.read_labelled(row).label_map).save(folder / "annotations/val" / f"{index:05}.png")
    names = {"id2label": dict(enumerate(data.label_set.names))}
    (folder / "labels.json").write_text(json.dumps(names), encoding="utf-8")


@contextmanager
def data_folder(options: Namespace) -> Iterator[tuple[str, Path, Path]]:
    """What to call the first `num_images` samples of the data set, or generated scenes without one; a folder of them,
    and one of the first alone.
    """
    if options.dataset:
        data = load_data(options, options.split)
        data.check_annotations()
        data = data.select(range(min(options.num_images, len(data))))
    else:
        data = make_scenes(options.num_images)
    title = f"{len(data)} {'photos of ' + Path(options.dataset).name if options.dataset else 'generated scenes'}"
    with temporary_folder() as folder:
        write_folder(data, folder / "data")
        write_folder(data.select([0]), folder / "first")
        yield title, folder / "data", folder / "first"


def read_folder(folder: str) -> SegmentationData:
    return load_segmentation_data(folder, "validation")
