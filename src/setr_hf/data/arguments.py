"""Options of the jobs that read a data set with annotations."""

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SetrError
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
class SplitArguments(DataArguments):
    """As [`DataArguments`], for jobs that always read a data set, and of it one split."""

    dataset: str = field(metadata=DATASET)
    split: str = option("validation", "split of the data set")


def load_data(arguments: DataArguments | Namespace, split: str, streaming: bool = False) -> SegmentationData:
    """The split of the data set that the options name, see [`load_segmentation_data`]."""
    if arguments.dataset is None:
        raise SetrError("--dataset is missing: a folder, or the id of a data set on the Hub")
    return load_segmentation_data(
        arguments.dataset,
        split,
        config=arguments.dataset_config,
        revision=arguments.dataset_revision,
        image_column=arguments.image_column,
        annotation_column=arguments.annotation_column,
        labels=arguments.labels,
        streaming=streaming,
    )


def dataset_name(dataset: str) -> str:
    """What a data set is called in a model card: its id on the Hub, or the name of its folder."""
    return Path(dataset).resolve().name if Path(dataset).is_dir() else dataset
