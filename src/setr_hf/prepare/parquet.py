"""Writes a segmentation data set as parquet files that `load_dataset` reads, checks them, and publishes them."""

import io
import itertools
import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, SplitDict, SplitInfo, Value, load_dataset
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from tqdm import tqdm

from ..cards.dataset_card import Source, dataset_card
from ..data.folders import SplitFiles
from ..data.label_sets import NAMES_FILE, LabelSet
from ..errors import SetrError
from ..model.image_processing_setr import IGNORED_LABEL


FEATURES = Features({"image": Image(), "annotation": Image(), "name": Value("string")})
# Reading one row reads its row group. Streaming readers share out the shards, and hold up to two in memory (measured).
ROW_GROUP_BYTES = 16 * 2**20
ROW_GROUPS_PER_SHARD = 8


@dataclass(frozen=True)
class Sample:
    """
    An image on disk and how to get at its annotation.

    Args:
        name (`str`): The image's name in the data set.
        image (`Path`): Its file; the bytes are kept as they are.
        annotation (`Callable[[], PIL.Image.Image]`): Opens the annotation in the source's own values.
        annotation_name (`str`): What errors call the annotation.
    """

    name: str
    image: Path
    annotation: Callable[[], PIL.Image.Image]
    annotation_name: str


@dataclass(frozen=True)
class SplitContent:
    """What a split was found to hold: number of images, and pixels of each value 0…255, int64 of shape `(256,)`."""

    num_images: int
    pixels: np.ndarray


def file_samples(files: SplitFiles) -> list[Sample]:
    """
    The samples of a folder whose annotations are image files.

    Raises:
        [`SetrError`]: images have no annotation; names the first.
    """
    missing = [image for image, annotation in zip(files.images, files.annotations) if annotation is None]
    if missing:
        raise SetrError(f"{len(missing)} images have no label file, the first is {missing[0]}")
    return [
        Sample(image.stem, image, partial(PIL.Image.open, annotation), str(annotation))
        for image, annotation in zip(files.images, files.annotations)
    ]


def count_notes(splits: dict[str, Collection[Sample]], source: Source) -> list[str]:
    """A sentence for each split that is not as large as the published one."""
    return [
        f"{split}: {len(samples):,} images, while the published data set has {source.num_images[split]:,}."
        for split, samples in splits.items()
        if len(samples) != source.num_images[split]
    ]


def check_is_new(output: Path):
    """Raises a [`SetrError`] if something is there."""
    if output.exists():
        raise SetrError(f"{output} is there already: name another folder, or remove it first")


def make_row(sample: Sample, label_set: LabelSet) -> dict:
    """
    A row of the data set: the bytes of the image file, and class ids as the bytes of an 8-bit grayscale PNG.

    Raises:
        [`SetrError`]: a file cannot be read, sizes differ, or the annotation holds values without a meaning; names it.
    """
    image = {"path": sample.image.name, "bytes": sample.image.read_bytes()}
    try:
        decoded = FEATURES["image"].decode_example(image)
    except (OSError, SyntaxError) as error:
        raise SetrError(f"{sample.image} cannot be read as an image: {error}") from None
    try:
        annotation = sample.annotation()
        annotation.load()
    except (OSError, SyntaxError) as error:
        raise SetrError(f"{sample.annotation_name} cannot be read as an image: {error}") from None
    label_map = label_set.encode(annotation, sample.annotation_name, decoded.size)
    png = io.BytesIO()
    PIL.Image.fromarray(label_map).save(png, format="PNG")
    return {
        "image": image,
        "annotation": {"path": f"{sample.name}.png", "bytes": png.getvalue()},
        "name": sample.name,
    }


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


def write_shards(folder: Path, split: str, rows: Iterable[dict]):
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
    """Rows and bytes of each split by the parquet files' own metadata."""
    infos = SplitDict()
    for split in splits:
        files = [pq.ParquetFile(path).metadata for path in folder.glob(f"{split}-*.parquet")]
        num_bytes = sum(file.row_group(i).total_byte_size for file in files for i in range(file.num_row_groups))
        infos.add(SplitInfo(split, num_bytes=num_bytes, num_examples=sum(file.num_rows for file in files)))
    return infos


def write_label_names(folder: Path, label_set: LabelSet):
    content = {"id2label": label_set.id2label, "ignore_index": IGNORED_LABEL}
    if label_set.palette is not None:
        content["palette"] = label_set.palette
    (folder / NAMES_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def check_row(row: dict, num_labels: int) -> np.ndarray:
    """
    Pixels of each value in the annotation of a row as written, int64 of shape `(256,)`.

    Raises:
        [`SetrError`]: the annotation is no 8-bit grayscale PNG of the image's size with ids of classes; names the row.
    """
    image = PIL.Image.open(io.BytesIO(row["image"]["bytes"]))
    annotation = PIL.Image.open(io.BytesIO(row["annotation"]["bytes"]))
    if (annotation.format, annotation.mode) != ("PNG", "L"):
        raise SetrError(f"the annotation of {row['name']} is a {annotation.format} of mode {annotation.mode}")
    if annotation.size != image.size:
        raise SetrError(f"the annotation of {row['name']} is {annotation.size} wide and high, its image {image.size}")
    pixels = np.bincount(np.asarray(annotation).ravel(), minlength=256)
    strangers = np.flatnonzero(pixels[num_labels:IGNORED_LABEL]) + num_labels
    if len(strangers):
        raise SetrError(f"the annotation of {row['name']} holds the ids {strangers.tolist()} of {num_labels} classes")
    return pixels


def verify_dataset(folder: Path, num_images: dict[str, int], num_labels: int) -> dict[str, SplitContent]:
    """
    Reads a written data set through `load_dataset` and checks every row, see [`check_row`].

    Args:
        num_images: Rows that each split must have.

    Raises:
        [`SetrError`]: a row is not as it should be, or rows are missing.
    """
    # Streaming reads the files themselves, without the copy that load_dataset otherwise makes in its cache.
    splits = load_dataset(str(folder.resolve()), streaming=True)
    contents = {}
    for split, expected in num_images.items():
        undecoded = (
            splits[split].cast_column("image", Image(decode=False)).cast_column("annotation", Image(decode=False))
        )
        rows, pixels = 0, np.zeros(256, dtype=np.int64)
        for row in tqdm(undecoded, desc=f"checking {split}", total=expected, unit="image"):
            pixels += check_row(row, num_labels)
            rows += 1
        if rows != expected:
            raise SetrError(f"{folder} holds {rows} images of {split}, {expected} were written")
        contents[split] = SplitContent(rows, pixels)
    return contents


def write_dataset(
    output: str | Path, splits: dict[str, Collection[Sample]], label_set: LabelSet, source: Source, notes: list[str]
) -> dict[str, SplitContent]:
    """
    Writes a data set to a new folder: parquet files with the files' bytes, `labels.json`, and a card.

    All is written and verified in a folder beside `output`, which gets its name at the end: after an error there is
    no `output`.

    Args:
        splits: Samples of each split, in the order in which they are written.
        label_set: What the annotations' values mean; class ids are written.
        notes: Sentences for the card, such as what was left out.

    Returns:
        What each split holds, see [`verify_dataset`].

    Raises:
        [`SetrError`]: `output` exists, a split is empty, or a sample is not as it should be; names it.
    """
    output = Path(output)
    check_is_new(output)
    for split, samples in splits.items():
        if not samples:
            raise SetrError(f"there are no images for the split {split!r}")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f"{output.name}.") as temporary:
        folder = Path(temporary) / output.name
        (folder / "data").mkdir(parents=True)
        for split, samples in splits.items():
            progress = tqdm(samples, desc=f"writing {split}", unit="image")
            write_shards(folder / "data", split, (make_row(sample, label_set) for sample in progress))
        write_label_names(folder, label_set)
        infos = split_infos(folder / "data", splits)
        dataset_card(source, label_set, infos, FEATURES, notes).save(folder / "README.md")
        num_images = {split: len(samples) for split, samples in splits.items()}
        contents = verify_dataset(folder, num_images, len(label_set.id2label))
        folder.rename(output)
    return contents


def content_table(contents: dict[str, SplitContent], id2label: dict[int, str]) -> str:
    """Images of each split, and the share of its pixels that each class has."""
    lines = [("", *contents), ("images", *(f"{content.num_images:,}" for content in contents.values()))]
    for i, name in [*id2label.items(), (IGNORED_LABEL, "not counted")]:
        shares = (content.pixels[i] / content.pixels.sum() for content in contents.values())
        lines.append((name, *(f"{share:.3%}" for share in shares)))
    width = max(len(line[0]) for line in lines)
    return "\n".join(f"{line[0]:<{width}}" + "".join(f"{cell:>12}" for cell in line[1:]) for line in lines)


def check_can_publish(repo_id: str, private: bool):
    """
    Finds out before hours of work what would keep [`publish`] from working.

    Raises:
        [`SetrError`]: `repo_id` is no name of a repository, the Hub is out of reach, nobody is logged in, or a private
            repository is wanted and there is a public one.
    """
    validate_repo_id(repo_id)
    api = HfApi()
    try:
        api.whoami()
        is_public = not api.repo_info(repo_id, repo_type="dataset").private
    except RepositoryNotFoundError:
        return
    except Exception as error:  # The client's own errors, and those of an HTTP library that changes between versions.
        raise SetrError(f"{repo_id} cannot be published from here: {error}") from error
    if private and is_public:
        raise SetrError(f"{repo_id} is on the Hub already and public: make it private there, or take another name")


def publish(folder: Path, repo_id: str, private: bool) -> str:
    """
    Uploads a prepared folder as a data set of the Hub, in place of the parquet files that it holds there.

    Args:
        private: Whether a repository that has to be made is private.

    Returns:
        The data set's address.

    Raises:
        [`SetrError`]: the upload failed; says how to go on.
    """
    api = HfApi()
    try:
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=folder,
            commit_message="Upload data set",
            delete_patterns="data/*.parquet",
        )
    except Exception as error:  # The client's own errors, and those of an HTTP library that changes between versions.
        raise SetrError(
            f"the upload to {repo_id} failed, while {folder} is complete; go on with "
            f"`hf upload {repo_id} {folder} --repo-type dataset`: {error}"
        ) from error
    return str(url)
