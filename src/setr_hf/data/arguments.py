"""Options of the jobs that read a data set with annotations."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from .loading import load_segmentation_data
from .public_datasets import CLASS_NAMES
from .rows import SegmentationData


def add_data_arguments(parser: ArgumentParser):
    """Adds `--dataset`, `--split` and what some data sets need besides."""
    parser.add_argument("--dataset", required=True, help="folder of images and annotations, or Hub id of a data set")
    parser.add_argument("--split", default="validation", help="of the data set")
    parser.add_argument("--dataset-config", metavar="NAME", help="configuration of a data set on the Hub")
    parser.add_argument("--dataset-revision", metavar="NAME", help="branch, tag or commit of a data set on the Hub")
    parser.add_argument("--image-column", metavar="NAME", help="column of the images, if it has no usual name")
    parser.add_argument("--annotation-column", metavar="NAME", help="column of the annotations, likewise")
    parser.add_argument(
        "--labels", metavar="NAME", help=f"if the data set does not tell: a names file, or {', '.join(CLASS_NAMES)}"
    )


def load_data(arguments: Namespace) -> SegmentationData:
    """The data set of the options that [`add_data_arguments`] has added."""
    return load_segmentation_data(
        arguments.dataset,
        arguments.split,
        config=arguments.dataset_config,
        revision=arguments.dataset_revision,
        image_column=arguments.image_column,
        annotation_column=arguments.annotation_column,
        labels=arguments.labels,
    )


def dataset_name(dataset: str) -> str:
    """What a data set is called in a model card: its id on the Hub, or the name of its folder."""
    return Path(dataset).resolve().name if Path(dataset).is_dir() else dataset
