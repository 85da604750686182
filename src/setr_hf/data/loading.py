"""The one way in for segmentation data: a data set on the Hub, or a folder in any of the usual layouts."""

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetBuilder, Features, Image, IterableDataset, Value, load_dataset_builder

from ..errors import SetrError
from ..files import check_is_file
from ..text import one_line
from .folders import find_split, is_test_split, read_folder
from .hub import open_on_hub
from .label_sets import chosen_label_set, is_names_file, label_set_of_features, own_label_set
from .rows import SegmentationData, dtype_of_arrays, reading, row_name
from .saved import is_saved, saved_splits


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
    """A split of a segmentation data set, and the meaning of its annotations.

    Args:
        source (`str` or `Path`): The id of a data set on the Hub, or a folder: `images/{train,val}` and
            `annotations/{train,val}` with a `labels.json` (see [`read_names_file`]), ADEChallengeData2016, Cityscapes
            (`leftImg8bit` and `gtFine`), VOC2010 with Pascal Context, parquet files such as `setr-hf prepare`
            writes, or what `save_to_disk` of datasets wrote. Photos may have any number of bands, as .npy or TIFF
            files or columns of arrays; how many the first of them has is the `num_bands` of the result.
        split (`str`): `"train"`, `"validation"` or `"test"`; also found if the source calls it `val`, `dev`,
            `training` ….
        config (`str`, *optional*): Which of several configs of a data set on the Hub.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        image_column, annotation_column (`str`, *optional*): Columns of images (feature type `Image`; of photos also
            `Array3D`, `Array2D` and lists of lists, `(height, width, bands)`), if they do not have a usual name.
        labels (`str` or `Path`, *optional*): For sources that do not say what their annotations mean (by a names file,
            or a column as [`label_set_of_features`] knows it): a names file, or `"ade20k"`, `"cityscapes"`,
            `"pascal_context"` or `"pascal_context_59"`. The last also turns Pascal Context's 60 classes into 59.
        streaming (`bool`, *optional*, defaults to `False`): Whether to read while iterating instead of before: the
            same rows, in the same order.

    Returns:
        [`SegmentationData`]: Rows with the columns `image`, `annotation` (`None` if it is missing) and `name` (a
            column of the source, else the image's file name without suffix, else the number of the row), and the
            label set. A test split without annotations has no such column.

    Raises:
        [`SetrError`]: the source, split or a column does not exist, the meaning of the annotations is unknown, or the
            data set cannot be used, such as the full ADE20K; raised before anything large is downloaded.

    Example:

    ```python
    >>> from setr_hf import load_segmentation_data
    >>> from setr_hf.data.label_sets import write_names_file
    >>> from setr_hf.data.scenes import make_scenes

    >>> scenes = make_scenes(count=4)
    >>> write_names_file("scenes/labels.json", scenes.label_set)
    >>> _ = scenes.rows.to_parquet("scenes/train.parquet")
    >>> data = load_segmentation_data("scenes", "train")
    >>> len(data), data[3].name, data.label_set.names[-1]
    (4, 'scene_3', 'balloon')
    ```
    """
    folder = Path(source)
    if folder.is_dir():
        check_folder_options(folder, config, revision, image_column, annotation_column)
    if folder.is_dir() and not holds_tables(folder):
        data = SegmentationData(*read_folder(folder, split, labels)).with_bands_of_files()
        if streaming:
            stream = data.rows.to_iterable_dataset(num_shards=min(NUM_STREAM_PARTS, len(data)))
            data = replace(data, rows=stream)
        return data

    own = own_label_set(folder) if folder.is_dir() and not is_names_file(labels) else None
    with reading(source):
        if is_saved(folder):
            splits = saved_splits(folder)
            split = find_split(split, list(splits), source)
            features, read_rows = splits[split].features, partial(saved_rows, splits[split])
        else:
            if folder.is_dir():
                check_parquet(folder)
                builder = load_dataset_builder(str(folder.resolve()), config)
            else:
                builder, own = open_on_hub(str(source), config, revision)
            split = find_split(split, list(builder.config.data_files or builder.info.splits or ()), source)
            features = builder.info.features or builder.as_streaming_dataset(split=split).features
            read_rows = partial(builder_rows, builder, split)
        label_set = chosen_label_set(labels, own or label_set_of_features(features), source)
        columns = choose_columns(features, image_column, annotation_column, split, source)
        rows = standard_rows(read_rows(streaming), columns, split)
        return SegmentationData(rows, label_set).with_bands_of_files()


def saved_rows(rows: Dataset, streaming: bool) -> Dataset | IterableDataset:
    rows = rows.with_format(None)
    return rows.to_iterable_dataset(num_shards=min(NUM_STREAM_PARTS, len(rows))) if streaming else rows


def builder_rows(builder: DatasetBuilder, split: str, streaming: bool) -> Dataset | IterableDataset:
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def holds_tables(folder: Path) -> bool:
    """Whether a folder holds parquet files, or what `save_to_disk` writes, instead of files of images."""
    return is_saved(folder) or any(path for pattern in ("*.parquet", "*/*.parquet") for path in folder.glob(pattern))


def check_folder_options(
    folder: Path, config: str | None, revision: str | None, image_column: str | None, annotation_column: str | None
) -> None:
    """Raises a [`SetrError`] if something was asked for that a folder does not have."""
    if revision is not None:
        raise SetrError(f"{folder} is a folder, which has no revision {revision!r}")
    if is_saved(folder) and config is not None:
        raise SetrError(f"{folder} was written by save_to_disk, which has no config {config!r}")
    if holds_tables(folder):
        return
    for name, value in (("config", config), ("column", image_column), ("column", annotation_column)):
        if value is not None:
            raise SetrError(f"{folder} is a folder of image files, which has no {name} {value!r}")


def check_parquet(folder: Path) -> None:
    """Raises a [`SetrError`] that names the first parquet file in a folder that is damaged."""
    for path in sorted(folder.rglob("*.parquet")):
        check_is_file(path)
        try:
            pq.read_metadata(path)
        except (OSError, pa.ArrowException) as error:
            raise SetrError(f"{path} is damaged, or not a parquet file: {one_line(error, 200)}") from error


def choose_columns(
    features: Features, image_column: str | None, annotation_column: str | None, split: str, source: str | Path
) -> dict[str, str]:
    """The source's columns `image`, `annotation` and `name`, asked for or usual. [`SetrError`] lists all columns."""
    listing = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())

    def choose(asked: str | None, usual: tuple[str, ...], with_arrays: bool = False) -> str | None:
        def is_image(name: str) -> bool:
            feature = features.get(name)
            return isinstance(feature, Image) or (with_arrays and dtype_of_arrays(feature) is not None)

        if asked is not None and not is_image(asked):
            raise SetrError(f"{source} has no column {asked!r} of images; its columns are {listing}")
        return asked or next(filter(is_image, usual), None)

    image = choose(image_column, IMAGE_COLUMNS, with_arrays=True)
    annotation = choose(annotation_column, ANNOTATION_COLUMNS)
    if annotation is None and any(name in features for name in FULL_ADE20K_COLUMNS):
        raise SetrError(
            f"{source} holds objects and their masks ({listing}), as the full ADE20K does with its 3,000 classes in "
            "colours, instead of one class id per pixel. The benchmark with 150 classes is merve/scene_parse_150, or "
            "zhoubolei/scene_parse_150, or the folder ADEChallengeData2016"
        )
    unknown = f"none of the columns of {source} has a usual name: {listing}"
    if image is None:
        raise SetrError(f"pass image_column: {unknown}")
    if annotation is None and not is_test_split(split):
        raise SetrError(f"pass annotation_column: {unknown}")
    if image == annotation:
        raise SetrError(f"column {image!r} of {source} cannot be both image and annotation")
    name = next((name for name in NAME_COLUMNS if isinstance(features.get(name), Value)), None)
    columns = {"image": image, "annotation": annotation, "name": name}
    return {column: found for column, found in columns.items() if found is not None}


def standard_rows(rows: Dataset | IterableDataset, columns: dict[str, str], split: str) -> Dataset | IterableDataset:
    """The rows with the columns `image`, `annotation` and `name`; of a stream's test split the first row is read."""
    images = [column for column in ("image", "annotation") if column in columns]
    arrays = (rows.features or {}).get(columns["image"])
    has_arrays = dtype_of_arrays(arrays) is not None
    # A stream that decodes would encode its images anew when their columns are renamed.
    for column in images[has_arrays:]:
        rows = rows.cast_column(columns[column], Image(decode=False))
    may_lack_them = "annotation" in images and is_test_split(split)
    if may_lack_them and lacks_annotations(rows.select_columns(columns["annotation"])):
        images.remove("annotation")
    renamed = {found: column for column, found in columns.items() if column in (*images, "name")}
    rows = rows.select_columns(list(renamed)).rename_columns({old: new for old, new in renamed.items() if old != new})
    if isinstance(rows, IterableDataset):
        kinds = {**dict.fromkeys(images, Image()), "name": Value("string")}
        features = Features(kinds | ({"image": arrays} if has_arrays else {}))
        # Given to `map`, the features would not decode.
        return rows.map(with_name, with_indices=True).cast(features)
    # All at once, without the bytes of the images.
    table = rows.with_format("arrow")[:]
    paths = [None] * len(rows) if has_arrays else pc.struct_field(table["image"], "path").to_pylist()
    given = table["name"].to_pylist() if "name" in columns else [None] * len(paths)
    names = [row_name(*row) for row in zip(given, paths, itertools.count())]
    rows = rows.select_columns(images).add_column("name", names)
    for column in images[has_arrays:]:
        rows = rows.cast_column(column, Image())
    return rows


def lacks_annotations(annotations: Dataset | IterableDataset) -> bool:
    rows = itertools.islice(annotations, 1) if isinstance(annotations, IterableDataset) else annotations
    return all(annotation is None for row in rows for annotation in row.values())


def with_name(row: dict, index: int) -> dict:
    path = row["image"]["path"] if isinstance(row["image"], dict) else None
    return {**row, "name": row_name(row.get("name"), path, index)}
