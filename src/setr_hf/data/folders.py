"""Folders of images and annotations as they are published: the files of a split, and what the annotations mean."""

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, Features, Image, Value

from ..errors import SetrError
from ..files import IMAGE_SUFFIXES, path_inside, read_text
from ..text import listing
from .label_sets import (
    NAMES_FILE,
    LabelSet,
    chosen_label_set,
    cityscapes_raw_label_set,
    own_label_set,
    published_label_set,
)


logger = logging.getLogger(__name__)

ANNOTATION_SUFFIXES = {".png"}
# Published names of the same split.
SPLIT_NAMES = (("train", "training"), ("validation", "val", "valid", "dev"), ("test", "testing"))


@dataclass(frozen=True)
class SplitFiles:
    """A split's photos in order, their annotations (`None` if it is published without), these values' meaning, and the
    annotations without a photo.
    """

    images: list[Path]
    annotations: list[Path] | None
    label_set: LabelSet | None
    unpaired: list[Path] = field(default_factory=list)


def names_of_split(split: str) -> tuple[str, ...]:
    """All published names of a split, `split` itself first."""
    group = next((names for names in SPLIT_NAMES if split in names), (split,))
    return (split, *(name for name in group if name != split))


def is_test_split(split: str) -> bool:
    """Whether benchmarks publish this split without annotations."""
    return "test" in names_of_split(split)


def find_split(split: str, available: list[str], source: str | Path) -> str:
    """The source's own name of a split. Raises [`SetrError`] if there is no such split; lists those there are."""
    for name in names_of_split(split):
        if name in available:
            return name
    raise SetrError(f"{source} has no split {split!r}, only {', '.join(sorted(available)) or 'none'}")


def split_folder(folder: Path, split: str) -> Path:
    """The subfolder of `folder` for a split, under any of its published names."""
    if not folder.is_dir():
        raise SetrError(f"{folder} is missing")
    return folder / find_split(split, [path.name for path in folder.iterdir() if path.is_dir()], folder)


def files_by_stem(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """The files in a folder that have one of these suffixes, in capitals or not, in order. Hidden ones, such as macOS
    puts beside photos, are left out; what else there is, a warning names. Raises [`SetrError`] if a stem occurs twice,
    or a name is not UTF-8.
    """
    files: dict[str, Path] = {}
    unused = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not is_utf8(path.name):
            raise SetrError(f"{folder} holds a file whose name is not UTF-8: rename {path.name!a}")
        if path.suffix.lower() not in suffixes:
            unused.append(path.name)
        elif path.stem in files:
            raise SetrError(
                f"{folder} holds both {files[path.stem].name} and {path.name}: rename one of them, as photos and "
                "annotations belong together by their names without suffixes"
            )
        else:
            files[path.stem] = path
    if unused:
        known = " ".join(sorted(suffixes))
        logger.warning(f"{folder}: not used, as they are not files in one of {known}: {listing(unused)}")
    return files


def is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def image_annotation_files(root: Path, split: str) -> SplitFiles:
    """`images/{train,val}` and `annotations/{train,val}`: ADEChallengeData2016, or any folder with a names file."""
    is_ade20k = (root / "objectInfo150.txt").is_file()
    own = published_label_set("ade20k") if is_ade20k else own_label_set(root)
    folder = split_folder(root / "images", split)
    images = files_by_stem(folder, IMAGE_SUFFIXES)
    if is_test_split(split) and not (root / "annotations" / folder.name).is_dir():
        return SplitFiles([*images.values()], None, own)
    annotation_folder = split_folder(root / "annotations", split)
    found = files_by_stem(annotation_folder, ANNOTATION_SUFFIXES)
    annotations = [found.get(stem, annotation_folder / f"{stem}.png") for stem in images]
    return SplitFiles(
        [*images.values()], annotations, own, [path for stem, path in found.items() if stem not in images]
    )


def cityscapes_files(root: Path, split: str) -> SplitFiles:
    """`leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`, raw label ids."""
    images = sorted(split_folder(root / "leftImg8bit", split).glob("*/*_leftImg8bit.png"))
    if is_test_split(split):
        # The published annotations of this split are dummies.
        return SplitFiles(images, None, cityscapes_raw_label_set())
    folder = split_folder(root / "gtFine", split)
    names = [path.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png") for path in images]
    annotations = [folder / path.parent.name / name for path, name in zip(images, names)]
    unpaired = set(folder.glob("*/*_gtFine_labelIds.png")).difference(annotations)
    return SplitFiles(images, annotations, cityscapes_raw_label_set(), sorted(unpaired))


def pascal_context_files(root: Path, split: str) -> SplitFiles:
    """`JPEGImages`, `SegmentationClassContext` and `ImageSets/SegmentationContext/{train,val}.txt` of VOC2010."""
    lists, folder = root / "ImageSets/SegmentationContext", root / "SegmentationClassContext"
    if not folder.is_dir() or not lists.is_dir():
        raise SetrError(
            f"{root} lacks {folder.name} or {lists.relative_to(root)}: the annotations of Pascal Context have to "
            "be made from trainval_merged.json first, see `setr-hf prepare pascal-context --help`"
        )
    name = find_split(split, [path.stem for path in lists.glob("*.txt")], lists)
    stems = read_text(lists / f"{name}.txt").split()
    images = [path_inside(root / "JPEGImages", stem, ".jpg") for stem in stems]
    return SplitFiles(images, [folder / f"{stem}.png" for stem in stems], published_label_set("pascal_context"))


# By a folder that only this layout has; the last is the most general.
LAYOUTS = {"leftImg8bit": cityscapes_files, "JPEGImages": pascal_context_files, "images": image_annotation_files}


def split_files(root: Path, split: str) -> SplitFiles:
    """The files of a split in a folder of any known layout. A [`SetrError`] says what is unknown or missing."""
    if (root / "images/ADE").is_dir() or any(root.glob("index_ade20k.*")):
        raise SetrError(
            f"{root} is the full ADE20K: its annotations encode about 3,000 classes as colours. The benchmark with "
            "its 150 classes is ADEChallengeData2016"
        )
    files_of = next((files_of for folder, files_of in LAYOUTS.items() if (root / folder).is_dir()), None)
    if files_of is None:
        raise SetrError(
            f"{root} has none of the known layouts: images + annotations with {NAMES_FILE}, ADEChallengeData2016, "
            "Cityscapes (leftImg8bit + gtFine), VOC2010 with Pascal Context, or parquet files such as `setr-hf "
            "prepare` writes"
        )
    files = files_of(root, split)
    if not files.images:
        raise SetrError(f"{root} holds no images of the split {split!r}")
    if files.annotations is not None and not any(path.is_file() for path in files.annotations):
        raise SetrError(
            f"none of the {len(files.images)} images of the split {split!r} has an annotation; that of "
            f"{files.images[0].name} would be {files.annotations[0]}"
        )
    return files


def read_folder(root: Path, split: str, labels: str | Path | None) -> tuple[Dataset, LabelSet]:
    """A split's rows and label set as [`load_segmentation_data`] returns them. Annotations without a photo are rows
    too, which the check of the samples will name.
    """
    files = split_files(root, split)
    label_set = chosen_label_set(labels, files.label_set, root)
    images, unpaired = files.images, files.unpaired
    columns: dict[str, list] = {
        "image": [*map(str, images), *[None] * len(unpaired)],
        "name": [path.stem for path in [*images, *unpaired]],
    }
    features = {"image": Image(), "name": Value("string")}
    if files.annotations is not None:
        annotations = [*files.annotations, *unpaired]
        columns["annotation"] = [str(path) if os.path.lexists(path) else None for path in annotations]
        features["annotation"] = Image()
    return Dataset.from_dict(columns, features=Features(features)), label_set
