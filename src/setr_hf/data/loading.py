"""One way in for segmentation data: a Hub data set or a folder as a `datasets` data set of images and annotations."""

from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset, Features, Image, IterableDataset, Value

from ..errors import SetrError
from .folders import find_split, is_test_split, read_folder
from .hub import hub_label_set, open_builder
from .label_sets import chosen_label_set, own_label_set
from .rows import SegmentationData, row_name


FULL_ADE20K_COLUMNS = ("segmentations", "instances", "objects")
# Usual names, the likelier first.
IMAGE_COLUMNS = ("image", "pixel_values", "img", "photo")
ANNOTATION_COLUMNS = (
    "annotation", "label", "labels", "mask", "segmentation_mask", "semantic_mask", "segmentation", "label_map",
    "annotations", "ground_truth", "gt",
)  # fmt: skip
NAME_COLUMNS = ("name", "filename", "file_name", "image_name", "image_id")
# Streams of folders come in parts, which dataloader workers share among them.
NUM_STREAM_PARTS = 64


@dataclass(frozen=True)
class Columns:
    """What the columns of a data set are called that hold image, annotation and name, `None` for those it lacks."""

    image: str
    annotation: str | None
    name: str | None

    @property
    def all(self) -> list[str]:
        return [column for column in (self.image, self.annotation, self.name) if column is not None]


def load_segmentation_data(
    source: str | Path,
    split: str,
    *,
    config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    annotation_column: str | None = None,
    labels: str | Path | None = None,
    streaming: bool = False,
) -> SegmentationData:
    """
    A split of a segmentation data set, and what its labels mean.

    Args:
        source: The id of a data set on the Hub, or a folder: `images/{train,val}` + `annotations/{train,val}` with a
            `labels.json` (see [`read_names_file`]), ADEChallengeData2016, Cityscapes
            (`leftImg8bit` + `gtFine`), VOC2010 with Pascal Context, or one of parquet files such as `setr-hf prepare`
            writes.
        split: `"train"`, `"validation"` or `"test"`; also found where the source calls it `val`, `dev`, `training` ….
        config: Which of several configs of a data set on the Hub.
        revision: Branch, tag or commit on the Hub.
        image_column, annotation_column: Columns of images (feature type `Image`), if not called by a usual name.
        labels: For sources that do not say themselves what their labels mean: a names file, or `"ade20k"`,
            `"cityscapes"`, `"pascal_context"` or `"pascal_context_59"`. The last also turns Pascal Context's 60
            classes into 59.
        streaming: Whether to read while iterating instead of before: the same rows, in the same order.

    Returns:
        [`SegmentationData`]: the rows, with the columns `image`, `annotation` (`None` where it is missing) and `name`
            (a column of the source, else the image's file name without suffix, else the number of the row), and what
            the annotations mean. A test split without annotations has no such column.

    Raises:
        `ValueError`: the source, split or a column is not there, nobody says what the labels mean, or the data set is
            none that can be used, such as the full ADE20K; said before anything large is downloaded.
    """
    folder = Path(source)
    if folder.is_dir() and revision is not None:
        raise SetrError(f"{folder} is a folder, which has no revision {revision!r}")
    if folder.is_dir() and not holds_parquet(folder):
        for name, value in (("config", config), ("column", image_column), ("column", annotation_column)):
            if value is not None:
                raise SetrError(f"{folder} is a folder of image files, which has no {name} {value!r}")
        dataset, label_set = read_folder(folder, split, labels)
        if streaming:
            dataset = dataset.to_iterable_dataset(num_shards=min(NUM_STREAM_PARTS, len(dataset)))
        return SegmentationData(dataset, label_set)

    source = str(folder.resolve() if folder.is_dir() else source)
    builder = open_builder(source, config, revision)
    own = own_label_set(folder) if folder.is_dir() else hub_label_set(source, config, revision)
    label_set = chosen_label_set(labels, own, source)
    split = find_split(split, list(builder.config.data_files or builder.info.splits or ()), source)
    features = builder.info.features or builder.as_streaming_dataset(split=split).features
    columns = choose_columns(features, image_column, annotation_column, split, source)
    if streaming:
        stream = standard_stream(builder.as_streaming_dataset(split=split), columns, split)
        return SegmentationData(stream, label_set)
    builder.download_and_prepare()
    return SegmentationData(standard_rows(builder.as_dataset(split=split), columns, split), label_set)


def holds_parquet(folder: Path) -> bool:
    return any(path for pattern in ("*.parquet", "*/*.parquet") for path in folder.glob(pattern))


def choose_columns(
    features: Features, image_column: str | None, annotation_column: str | None, split: str, source: str
) -> Columns:
    """
    The columns that were asked for, or those with a usual name and the type `Image`.

    Raises:
        `ValueError`: there are none; lists the columns and their types.
    """
    listing = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())

    def choose(asked: str | None, usual: tuple[str, ...]) -> str | None:
        if asked is not None and not isinstance(features.get(asked), Image):
            raise SetrError(f"{source} has no column {asked!r} of images; its columns are {listing}")
        return asked or next((name for name in usual if isinstance(features.get(name), Image)), None)

    image, annotation = choose(image_column, IMAGE_COLUMNS), choose(annotation_column, ANNOTATION_COLUMNS)
    if annotation is None and any(name in features for name in FULL_ADE20K_COLUMNS):
        raise SetrError(
            f"{source} holds objects and their masks ({listing}), as the full ADE20K does with its 3,000 classes in "
            "colours, and not one class id per pixel. The benchmark with 150 classes is merve/scene_parse_150, or "
            "zhoubolei/scene_parse_150, or the folder ADEChallengeData2016"
        )
    for kind, found in (("image", image), ("annotation", annotation)):
        if found is None and not (kind == "annotation" and is_test_split(split)):
            raise SetrError(f"pass {kind}_column: none of the columns of {source} has a usual name: {listing}")
    if image == annotation:
        raise SetrError(f"column {image!r} of {source} cannot be both image and annotation")
    text = [name for name in NAME_COLUMNS if isinstance(features.get(name), Value)]
    return Columns(image, annotation, text[0] if text else None)


def standard_rows(dataset: Dataset, columns: Columns, split: str) -> Dataset:
    """The data set with the columns `image`, `annotation` and `name`."""
    table = dataset.select_columns(columns.all).with_format("arrow")[:]
    if columns.name is not None:
        names = [str(name) for name in table[columns.name].to_pylist()]
    else:
        paths = pc.struct_field(table[columns.image], "path").to_pylist()
        names = [row_name(path, index) for index, path in enumerate(paths)]
    is_bare = columns.annotation is None or (
        is_test_split(split) and table[columns.annotation].null_count == len(dataset)
    )
    sources = {"image": columns.image} if is_bare else {"image": columns.image, "annotation": columns.annotation}
    dataset = dataset.select_columns(list(sources.values()))
    dataset = dataset.rename_columns({old: new for new, old in sources.items() if new != old})
    for column in sources:
        dataset = dataset.cast_column(column, Image())
    return dataset.add_column("name", names)


def standard_row(row: dict, index: int, columns: Columns, is_bare: bool) -> dict:
    image = row[columns.image]
    name = row_name(image and image["path"], index) if columns.name is None else str(row[columns.name])
    annotation = {} if is_bare else {"annotation": row[columns.annotation]}
    return {"image": image, **annotation, "name": name}


def standard_stream(stream: IterableDataset, columns: Columns, split: str) -> IterableDataset:
    """The stream with the columns `image`, `annotation` and `name`. Only the first row of a test split is read."""
    stream = stream.decode(False).select_columns(columns.all)
    is_bare = columns.annotation is None or (
        is_test_split(split) and all(row[columns.annotation] is None for row in islice(stream, 1))
    )
    stream = stream.map(
        partial(standard_row, columns=columns, is_bare=is_bare), with_indices=True, remove_columns=columns.all
    )
    images = {"image": Image()} if is_bare else {"image": Image(), "annotation": Image()}
    # Given to `map`, the features would not decode.
    return stream.cast(Features({**images, "name": Value("string")}))
