"""Options of the jobs that read a data set with annotations."""

from argparse import Namespace
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import SetrError
from .folders import NoSuchSplit, names_of_split
from .holdout import HOW_TO_VALIDATE, held_out
from .loading import load_segmentation_data
from .public_datasets import CLASS_NAMES
from .rows import SegmentationData


WHERE = "Hub id; folder of ADE20K, Cityscapes or Pascal Context; or images/ + annotations/"
DATASET = {"metavar": "DATA", "help": WHERE}


def option(default: Any, help: str, **details: Any) -> Any:
    """A field of a dataclass of options, as a job's parser lists it."""
    return field(default=default, metadata={"help": help, **details})


@dataclass
class DataArguments:
    """Which data set, and what it does not say of itself; declared by `JobParser(DataArguments)`."""

    _argument_group_name = "data"

    dataset: str | None = field(default=None, metadata=DATASET)
    dataset_config: str | None = option(None, "configuration of a data set on the Hub")
    dataset_revision: str | None = option(None, "branch, tag or commit on the Hub")
    image_column: str | None = option(None, "column of the photos, if not a usual name")
    annotation_column: str | None = option(None, "column of the annotations, likewise")
    labels: str | None = option(None, f"class names, if the data lacks them: a JSON file, {', '.join(CLASS_NAMES)}")


@dataclass
class HoldOutArguments(DataArguments):
    """As [`DataArguments`], for data sets without a validation split too."""

    validation_fraction: float | None = option(None, "share of the training samples to hold out, 0 for none")


@dataclass
class SplitArguments(HoldOutArguments):
    """As [`HoldOutArguments`], for jobs that always read a data set, and of it one split."""

    dataset: str = field(metadata=DATASET)
    split: str = option("validation", "split of the data set")


def load_data(arguments: DataArguments | Namespace, split: str, streaming: bool = False) -> SegmentationData:
    """The split of the data set that the options name, see [`load_segmentation_data`] and [`held_out`]."""
    if arguments.dataset is None:
        raise SetrError("--dataset is missing: a folder, or the id of a data set on the Hub")
    load = partial(
        load_segmentation_data,
        arguments.dataset,
        config=arguments.dataset_config,
        revision=arguments.dataset_revision,
        image_column=arguments.image_column,
        annotation_column=arguments.annotation_column,
        labels=arguments.labels,
        streaming=streaming,
    )
    fraction = getattr(arguments, "validation_fraction", None)
    if fraction is None:
        try:
            return load(split)
        except NoSuchSplit as error:
            if "validation" not in names_of_split(split) or not isinstance(arguments, HoldOutArguments):
                raise
            raise NoSuchSplit(f"{error}: {HOW_TO_VALIDATE}") from None
    check_fraction(fraction, streaming)
    is_validation = "validation" in names_of_split(split)
    if not fraction and is_validation:
        raise SetrError("--validation-fraction 0 leaves no samples to validate on")
    if not fraction or not (is_validation or "train" in names_of_split(split)):
        return load(split)
    with suppress(NoSuchSplit):
        load("validation")
        raise SetrError(f"{arguments.dataset} has a validation split: leave out --validation-fraction")
    return held_out(load("train"), fraction, is_validation)


def check_fraction(fraction: float, streaming: bool) -> None:
    """Raises a [`SetrError`] for a share of the samples that is none, or of samples whose number is not known."""
    if not 0 <= fraction < 1:
        raise SetrError(f"--validation-fraction must be a number from 0 to less than 1, got {fraction:g}")
    if fraction and streaming:
        raise SetrError("--validation-fraction needs the number of samples, which --streaming does not know")


def dataset_name(dataset: str) -> str:
    """What a data set is called in a model card: its id on the Hub, or the name of its folder."""
    return Path(dataset).resolve().name if Path(dataset).is_dir() else dataset
