"""Folders of images and annotations as they are published: the files of a split, and what the annotations mean."""

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, Features, Image, Value

from ..errors import SetrError
from ..files import PHOTO_SUFFIXES, path_inside, read_text
from ..text import listing
from .label_sets import (
    NAMES_FILE,
    LabelSet,
    chosen_label_set,
    cityscapes_raw_label_set,
    is_names_file,
    own_label_set,
    published_label_set,
)


logger = logging.getLogger(__name__)

ANNOTATION_SUFFIXES = {".png"}
# Published names of the same split.
SPLIT_NAMES = (("train", "training"), ("validation", "val", "valid", "dev"), ("test", "testing"))


@dataclass(frozen=True)
class SplitFiles:
    """A split's photos in order, their annotations (`None` if it is published without), the annotations without a
    photo, the files beside them that are neither, and what is wrong with their names.
    """

    images: list[Path]
    annotations: list[Path] | None
    unpaired: list[Path] = field(default_factory=list)
    unused: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class NoSuchSplit(SetrError):
    """A data set has splits, and not the one that was asked for."""


def names_of_split(split: str) -> tuple[str, ...]:
    """All published names of a split, `split` itself first."""
    group = next((names for names in SPLIT_NAMES if split in names), (split,))
    return (split, *(name for name in group if name != split))


def is_test_split(split: str) -> bool:
    """Whether benchmarks publish this split without annotations."""
    return "test" in names_of_split(split)


def find_split(split: str, available: list[str], source: str | Path) -> str:
    """The source's own name of a split. Raises [`NoSuchSplit`] if there is no such split; lists those there are."""
    for name in names_of_split(split):
        if name in available:
            return name
    raise NoSuchSplit(f"{source} has no split {split!r}, only {', '.join(sorted(available)) or 'none'}")


def split_folder(folder: Path, split: str) -> Path:
    """The subfolder of `folder` for a split, under any of its published names."""
    if not folder.is_dir():
        raise SetrError(f"{folder} is missing")
    return folder / find_split(split, [path.name for path in folder.iterdir() if path.is_dir()], folder)


def is_flat(folder: Path) -> bool:
    """Whether a folder holds photos instead of a subfolder for each split."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    return any(path.suffix.lower() in PHOTO_SUFFIXES for path in paths) and not any(path.is_dir() for path in paths)


def folder_of_annotations(folder: Path, split: str) -> Path:
    """The subfolder of `folder` for a split that has photos. Raises [`SetrError`] if there is none."""
    try:
        return split_folder(folder, split)
    except NoSuchSplit as error:
        raise SetrError(f"the photos of the split {split!r} have no annotations: {error}") from None


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder by their stems, those of other kinds, and what is wrong with their names."""

    by_stem: dict[str, Path]
    unused: list[Path]
    problems: list[str]


def files_by_stem(folder: Path, suffixes: Collection[str]) -> FolderFiles:
    """The files in a folder that have one of these suffixes, in capitals or not, in order. Hidden ones, such as macOS
    puts beside photos, are left out; what else there is, a warning names. A stem that occurs twice, and a name that is
    not UTF-8, is a problem.
    """
    files: dict[str, Path] = {}
    unused, problems = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not is_utf8(path.name):
            problems.append(f"{folder} holds a file whose name is not UTF-8: rename {path.name!a}")
        elif path.suffix.lower() not in suffixes:
            unused.append(path)
        elif path.stem in files:
            problems.append(
                f"{folder} holds both {files[path.stem].name} and {path.name}: rename one of them, as photos and "
                "annotations belong together by their names without suffixes"
            )
        else:
            files[path.stem] = path
    if unused:
        known, names = " ".join(sorted(suffixes)), [path.name for path in unused]
        logger.warning(f"{folder}: not used, as they are not files in one of {known}: {listing(names)}")
    return FolderFiles(files, unused, problems)


def is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def image_annotation_files(root: Path, split: str) -> SplitFiles:
    """`images/{train,val}` and `annotations/{train,val}`: ADEChallengeData2016, or any folder with a names file.
    Photos in `images` itself, and annotations in `annotations`, are those of training.
    """
    if is_flat(root / "images"):
        find_split(split, ["train"], root)
        return paired_files(root / "images", root / "annotations")
    folder = split_folder(root / "images", split)
    if is_test_split(split) and not (root / "annotations" / folder.name).is_dir():
        photos = files_by_stem(folder, PHOTO_SUFFIXES)
        return SplitFiles([*photos.by_stem.values()], None, unused=photos.unused, problems=photos.problems)
    return paired_files(folder, folder_of_annotations(root / "annotations", split))


def paired_files(folder: Path, annotation_folder: Path) -> SplitFiles:
    """The photos of a folder, and the annotations that have their names in another."""
    if not annotation_folder.is_dir():
        raise SetrError(f"{annotation_folder} is missing")
    photos = files_by_stem(folder, PHOTO_SUFFIXES)
    images = [*photos.by_stem.values()]
    found = files_by_stem(annotation_folder, ANNOTATION_SUFFIXES)
    return SplitFiles(
        images,
        [found.by_stem.get(stem, annotation_folder / f"{stem}.png") for stem in photos.by_stem],
        [path for stem, path in found.by_stem.items() if stem not in photos.by_stem],
        photos.unused + found.unused,
        photos.problems + found.problems,
    )


def cityscapes_files(root: Path, split: str) -> SplitFiles:
    """`leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`, raw label ids."""
    images = sorted(split_folder(root / "leftImg8bit", split).glob("*/*_leftImg8bit.png"))
    if is_test_split(split):
        # The published annotations of this split are dummies.
        return SplitFiles(images, None)
    folder = folder_of_annotations(root / "gtFine", split)
    names = [path.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png") for path in images]
    annotations = [folder / path.parent.name / name for path, name in zip(images, names)]
    unpaired = set(folder.glob("*/*_gtFine_labelIds.png")).difference(annotations)
    return SplitFiles(images, annotations, sorted(unpaired))


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
    return SplitFiles(images, [folder / f"{stem}.png" for stem in stems])


def image_annotation_label_set(root: Path) -> LabelSet | None:
    """The label set of ADEChallengeData2016, or of a folder's names file, if it has one."""
    return published_label_set("ade20k") if (root / "objectInfo150.txt").is_file() else own_label_set(root)


@dataclass(frozen=True)
class Layout:
    """How a folder is laid out: the files of a split, and what the values of its annotations mean."""

    files: Callable[[Path, str], SplitFiles]
    label_set: Callable[[Path], LabelSet | None]


# By a folder that only this layout has; the last is the most general.
LAYOUTS = {
    "leftImg8bit": Layout(cityscapes_files, lambda _: cityscapes_raw_label_set()),
    "JPEGImages": Layout(pascal_context_files, lambda _: published_label_set("pascal_context")),
    "images": Layout(image_annotation_files, image_annotation_label_set),
}


def layout_of(root: Path) -> Layout:
    """The layout of a folder. Raises [`SetrError`] if it is none of the known ones."""
    if (root / "images/ADE").is_dir() or any(root.glob("index_ade20k.*")):
        raise SetrError(
            f"{root} is the full ADE20K: its annotations encode about 3,000 classes as colours. The benchmark with "
            "its 150 classes is ADEChallengeData2016"
        )
    layout = next((layout for folder, layout in LAYOUTS.items() if (root / folder).is_dir()), None)
    if layout is None:
        raise SetrError(
            f"{root} has none of the known layouts: images + annotations with {NAMES_FILE}, ADEChallengeData2016, "
            "Cityscapes (leftImg8bit + gtFine), VOC2010 with Pascal Context, or parquet files such as `setr-hf "
            "prepare` writes"
        )
    return layout


def check_files(files: SplitFiles, root: Path, split: str) -> None:
    """Raises [`SetrError`] if a file's name is a problem, or there are no pairs."""
    if files.problems:
        raise SetrError(files.problems[0])
    if not files.images:
        raise SetrError(f"{root} holds no images of the split {split!r}")
    if files.annotations is not None and not any(path.is_file() for path in files.annotations):
        raise SetrError(
            f"none of the {len(files.images)} images of the split {split!r} has an annotation; that of "
            f"{files.images[0].name} would be {files.annotations[0]}"
        )


def read_folder(root: Path, split: str, labels: str | Path | None) -> tuple[Dataset, LabelSet]:
    """A split's rows and label set as [`load_segmentation_data`] returns them."""
    layout = layout_of(root)
    files = layout.files(root, split)
    check_files(files, root, split)
    own = None if is_names_file(labels) else layout.label_set(root)
    return folder_rows(files), chosen_label_set(labels, own, root)


def folder_rows(files: SplitFiles) -> Dataset:
    """The rows of a split. Annotations without a photo are rows too, which the check of the samples will name."""
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
    return Dataset.from_dict(columns, features=Features(features))
