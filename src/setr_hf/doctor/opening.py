"""Opens the splits of a data set for the doctor: what `train` would refuse becomes a finding, and the rest is read."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..data.arguments import DataArguments, load_data
from ..data.folders import Layout, NoSuchSplit, SplitFiles, folder_rows, layout_of
from ..data.holdout import HOW_TO_VALIDATE
from ..data.label_sets import MOST_CLASSES, NAMES_FILE, LabelSet, chosen_label_set, is_names_file, write_names_file
from ..data.loading import check_folder_options, holds_tables
from ..data.public_datasets import CLASS_NAMES
from ..data.rows import SegmentationData
from ..errors import SetrError
from ..files import IMAGE_SUFFIXES, temporary_folder
from ..text import listing
from .findings import Finding


SPLITS = ("train", "validation", "test")
NAME_THE_CLASSES = (
    f'write {{"id2label": {{"0": "sky", …}}}} into {NAMES_FILE} in the folder, or pass --labels: a JSON file, or one '
    f"of {', '.join(CLASS_NAMES)}"
)


@dataclass
class OpenedData:
    """The splits that can be opened, and what was found on the way. `has_names` is false if the class names are not
    known; each pixel value is a class of its own then.
    """

    splits: dict[str, SegmentationData] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    has_names: bool = True


# Opens a split by its name. Raises `NoSuchSplit` if there is none, and `SetrError` if it cannot be opened.
Opener = Callable[[str], SegmentationData]


def open_data(arguments: DataArguments) -> OpenedData:
    """All splits of the data set that the options name. Raises [`SetrError`] if it is none, or an option is wrong."""
    source, opened, missing = str(arguments.dataset), OpenedData(), []
    open_split = choose_opener(arguments, opened)
    for split in SPLITS:
        try:
            opened.splits[split] = open_split(split)
        except NoSuchSplit as error:
            missing.append((split, str(error)))
        except SetrError as error:
            if not Path(source).is_dir():
                raise
            finding = Finding("unreadable_split", "error", str(error), "mend this first: the split was not read")
            if finding not in opened.findings:
                opened.findings.append(finding)
    if len(missing) == len(SPLITS):
        raise SetrError(missing[0][1])
    for split, text in missing:
        if split != "test":
            meaning = f"{text}; setr-hf train needs one"
            advice = f"add the split {split}{f', or {HOW_TO_VALIDATE}' if split == 'validation' else ''}"
            opened.findings.append(Finding("missing_split", "note", meaning, advice))
    return opened


def choose_opener(arguments: DataArguments, opened: OpenedData) -> Opener:
    folder = Path(str(arguments.dataset))
    if folder.is_dir():
        columns = (arguments.image_column, arguments.annotation_column)
        check_folder_options(folder, arguments.dataset_config, arguments.dataset_revision, *columns)
        if not holds_tables(folder):
            return files_opener(folder, layout_of(folder), arguments.labels, opened)
    return table_opener(arguments, opened)


def label_set_of(
    source: Path, labels: str | None, own: Callable[[Path], LabelSet | None], opened: OpenedData
) -> LabelSet:
    """The label set that `labels` asks for, else the source's `own`; one without names if that is what is wrong."""
    try:
        return chosen_label_set(labels, None if is_names_file(labels) else own(source), source)
    except SetrError as error:
        if labels is not None:
            raise
        opened.findings.append(no_names(error))
        opened.has_names = False
        return unnamed_label_set()


def no_names(error: SetrError) -> Finding:
    return Finding("class_names", "error", str(error), NAME_THE_CLASSES)


def unnamed_label_set() -> LabelSet:
    """Each pixel value is a class, and 255 is ignored."""
    return LabelSet.direct([f"value {value}" for value in range(MOST_CLASSES)])


def files_opener(folder: Path, layout: Layout, labels: str | None, opened: OpenedData) -> Opener:
    """Of a folder of image files."""
    label_set = label_set_of(folder, labels, layout.label_set, opened)

    def open_split(split: str) -> SegmentationData:
        files = layout.files(folder, split)
        if not files.images and not files.unpaired:
            raise SetrError(f"{folder} holds no images of the split {split!r}")
        opened.findings += name_findings(split, files)
        return SegmentationData(folder_rows(files), label_set).with_bands_of_files()

    return open_split


def name_findings(split: str, files: SplitFiles) -> list[Finding]:
    """What the names alone say."""
    findings = [Finding("file_names", "error", text, "rename the file") for text in files.problems]
    pictures = [path for path in files.unused if path.suffix.lower() in IMAGE_SUFFIXES]
    if pictures:
        names = listing([path.name for path in pictures])
        meaning = f"annotations that are no PNG are not read: {names}. JPEG and others would blur or shift the ids"
        advice = "export the annotations once more as PNG; a JPEG that is only converted keeps its false ids"
        samples = tuple(f"{split}/{path.stem}" for path in pictures)
        findings.append(Finding("mask_not_png", "warning", meaning, advice, samples))
    return findings


def table_opener(arguments: DataArguments, opened: OpenedData) -> Opener:
    """Of a data set on the Hub, or a folder of parquet files or of `save_to_disk`."""

    def open_split(split: str) -> SegmentationData:
        try:
            return load_data(arguments, split)
        except NoSuchSplit:
            raise
        except SetrError as error:
            if arguments.labels is not None:
                raise
            # If it opens with names of ours, the missing names were all that was wrong.
            with temporary_folder() as temporary:
                write_names_file(temporary / NAMES_FILE, unnamed_label_set())
                data = load_data(replace(arguments, labels=str(temporary / NAMES_FILE)), split)
            if opened.has_names:
                opened.findings.append(no_names(error))
            opened.has_names = False
            return data

    return open_split
