"""Prepares Cityscapes or Pascal Context as a data set that `load_dataset` reads, and publishes it."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

from argparse import Namespace
from pathlib import Path

import numpy as np

from setr_hf.cards.dataset_card import CITYSCAPES, PASCAL_CONTEXT, Source
from setr_hf.cli import JobParser
from setr_hf.data.folders import cityscapes_files
from setr_hf.data.label_sets import IGNORED_LABEL, LabelSet, cityscapes_raw_label_set, published_label_set
from setr_hf.files import check_is_new
from setr_hf.prepare.parquet import SourceImage, file_images, write_dataset
from setr_hf.prepare.pascal_context import left_out_notes, read_context_images, usable_images
from setr_hf.prepare.publish import check_can_publish, publish
from setr_hf.tables import print_table


def parse_arguments(argv: list[str] | None = None) -> Namespace:
    parser = JobParser(description=__doc__)
    data_sets = parser.add_subparsers(dest="data_set", required=True, metavar="DATA_SET", title="data sets")

    cityscapes = data_sets.add_parser("cityscapes", help="the 19 training classes of leftImg8bit and gtFine")
    cityscapes.add_argument("root", type=Path, help="folder that holds leftImg8bit and gtFine")

    context = data_sets.add_parser("pascal-context", help="VOC2010 with the masks of trainval_merged.json")
    context.add_argument("root", type=Path, help="VOCdevkit/VOC2010, the folder that holds JPEGImages")
    context.add_argument("annotations", type=Path, metavar="trainval_merged.json", help="of the Detail API")
    context.add_argument("--num-classes", type=int, choices=sorted(PASCAL_CONTEXT), default=59, help="60: background")
    for data_set in (cityscapes, context):
        data_set.add_argument("output", type=Path, help="folder to write; must not exist")
        data_set.add_argument("--push-to-hub", metavar="ID", help="publish it as this data set, created if missing")
        data_set.add_argument("--private", action="store_true", help="with --push-to-hub: create it as a private one")
    arguments = parser.parse_args(argv)
    if arguments.private and not arguments.push_to_hub:
        parser.error("--private belongs to --push-to-hub")
    return arguments


def find_images(arguments: Namespace) -> tuple[dict[str, list[SourceImage]], LabelSet, Source, list[str]]:
    """The images of each split, what their annotations mean, where they come from, and notes on what was left out."""
    if arguments.data_set == "cityscapes":
        splits = {split: file_images(cityscapes_files(arguments.root, split)) for split in CITYSCAPES.num_images}
        return splits, cityscapes_raw_label_set(), CITYSCAPES, []
    label_set = published_label_set("pascal_context" if arguments.num_classes == 60 else "pascal_context_59")
    splits, notes = {}, []
    for split, images in read_context_images(arguments.annotations).items():
        splits[split], left_out = usable_images(images, arguments.root / "JPEGImages")
        print(f"{arguments.annotations.name} lists {len(images):,} images of {split}, {len(splits[split]):,} usable")
        notes += left_out_notes(split, len(images), left_out)
    return splits, label_set, PASCAL_CONTEXT[arguments.num_classes], notes


def print_shares(pixels: dict[str, np.ndarray], label_set: LabelSet) -> None:
    """Prints the share of each split's pixels that each class has."""
    names = [*enumerate(label_set.names), (IGNORED_LABEL, "ignored")]
    rows = [(name, *(f"{100 * counts[i] / counts.sum():.3f}" for counts in pixels.values())) for i, name in names]
    print_table(["class", *(f"% of {split}" for split in pixels)], rows)


def announce_upload(folder: Path, repo_id: str, private: bool, source: Source) -> None:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    print(f"Publishing {len(files)} files, {megabytes:,.1f} MB, as the {'private ' * private}data set {repo_id}:")
    for path in files:
        print(f"  {path.relative_to(folder).as_posix()}")
    print(f"These are the images themselves. {source.terms}")


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    check_is_new(arguments.output)
    if arguments.push_to_hub:
        check_can_publish(arguments.push_to_hub, arguments.private)
    splits, label_set, source, notes = find_images(arguments)
    for split, images in splits.items():
        if len(images) != source.num_images[split]:
            published = f"while the published data set has {source.num_images[split]:,}"
            notes.append(f"{split}: {len(images):,} images, {published}.")
    for note in notes:
        print(note)
    print_shares(write_dataset(arguments.output, splits, label_set, source, notes), label_set)
    counts = ", ".join(f"{len(images):,} images of {split}" for split, images in splits.items())
    print(f"written and checked: {arguments.output}, {counts}")
    if arguments.push_to_hub:
        announce_upload(arguments.output, arguments.push_to_hub, arguments.private, source)
        print(f"published: {publish(arguments.output, arguments.push_to_hub, arguments.private)}")
    return 0
