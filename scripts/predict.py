"""Segments photos: a label map, an overlay with a legend and a table of the classes for each."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import torch

from setr_hf.cli import JobParser, positive, usable_device
from setr_hf.errors import SetrError
from setr_hf.evaluation.segmenter import load_segmenter
from setr_hf.files import folder_lock
from setr_hf.inference.arguments import ConfidenceArguments, ProtocolArguments
from setr_hf.inference.large_pictures import is_too_large
from setr_hf.inference.large_results import check_full_size, record_large_results
from setr_hf.inference.output_folder import (
    CONFIDENCE_RESULTS,
    RECORDS_FILE,
    RESULTS,
    check_overwrites_nothing,
    is_done,
    open_records,
    photo_state,
    record_results,
    result_names,
)
from setr_hf.inference.photo_files import PhotoFiles, find_photos
from setr_hf.inference.photos import read_photo_of_bands
from setr_hf.inference.pictures import class_colors
from setr_hf.inference.segmenter import Segmenter, read_ahead, segment_each
from setr_hf.inference.settings import digest
from setr_hf.model.photos_setr import Photo
from setr_hf.progress import progress_bar
from setr_hf.repositories import check_model
from setr_hf.text import one_line
from setr_hf_ending import say_when_interrupted


def parse_arguments(argv: list[str] | None) -> tuple[Namespace, ProtocolArguments, ConfidenceArguments]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = JobParser((ProtocolArguments, ConfidenceArguments), description=__doc__)
    option = parser.add_argument
    option("inputs", nargs="+", metavar="PHOTO", help="photos, folders of photos, or patterns such as 'a/**/*.jpg'")
    option("--model", required=True, help="folder or Hub id of a SETR model")
    option("--output", required=True, type=Path, help="folder for the results, resumed if it exists")
    option("--device", type=usable_device, default=device, help="where the model computes: cpu, cuda, cuda:1, mps")
    option("--batch-size", type=positive, default=1, help="photos at a time")
    option("--full-size", action="store_true", help="no resizing: windows over each photo as it is, of any size")
    options = parser.parse_args(argv)
    return options, *parser.parse_dict(vars(options), allow_extra_keys=True)


def photos_in(inputs: list[str]) -> PhotoFiles:
    """The photos of the command line; says what was left out. Raises [`SetrError`] if there are none."""
    found = find_photos(inputs, marker=RECORDS_FILE)
    for line in found.left_out():
        print(one_line(line), file=sys.stderr)
    if not found.photos:
        raise SetrError("; ".join([f"no photos found in {', '.join(inputs)}", *found.unreadable_folders()]))
    return found


class ReadPhoto(NamedTuple):
    """A photo, or why it cannot be read, or `None` if it is by windows; its results' name; its file's state before."""

    path: Path
    name: str
    state: dict[str, int] | None
    photo: Photo | SetrError | None


def read(path: Path, name: str, full_size: bool, num_bands: int | None) -> ReadPhoto:
    state = photo_state(path)
    try:
        by_windows = full_size or is_too_large(path, num_bands)
        return ReadPhoto(path, name, state, None if by_windows else read_photo_of_bands(path, num_bands))
    except SetrError as error:
        return ReadPhoto(path, name, state, error)


def process_group(
    group: list[ReadPhoto], output: Path, segmenter: Segmenter, shown: ConfidenceArguments, colors: list[list[int]]
) -> list[str]:
    """Segments photos and writes their results; returns a line for each that has none, which says why."""
    photos: list[Photo] = [item.photo for item in group if isinstance(item.photo, Photo)]
    predictions = iter(segment_each(lambda photos: segmenter.predict(photos, shown), photos))
    failures = []
    for path, name, state, photo in group:
        result = next(predictions) if isinstance(photo, Photo) else photo
        if result is None:
            failures.append(record_large_results(output, name, path, state, segmenter, shown, colors))
        elif isinstance(result, SetrError):
            failures.append(str(result if result is photo else SetrError(f"{path}: {result}")))
        else:
            id2label = segmenter.model.config.id2label
            failures.append(record_results(output, name, path, state, result, colors, id2label))
    return [failure for failure in failures if failure]


def main(argv: list[str] | None = None) -> int:
    options, protocol, shown = parse_arguments(argv)
    output, found = options.output, photos_in(options.inputs)
    ends = CONFIDENCE_RESULTS if shown.confidence else RESULTS
    names = result_names(found.photos, ends)
    check_overwrites_nothing(found, output, names, ends)
    check_model(options.model)
    segmenter = load_segmenter(options.model, None, protocol, options.device)
    if options.full_size:
        check_full_size(segmenter, shown)
    colors = class_colors(segmenter.model.config)
    # Devices, threads and batch sizes change rounding and, rarely, a pixel: a job may go on with others.
    settings = {**segmenter.settings(), "classes": digest([segmenter.model.config.id2label, colors])}
    settings |= shown.settings(segmenter.processor.temperature) | ({"full_size": True} if options.full_size else {})
    failures = found.unreadable_folders()
    num_photos, num_bad = len(found.photos), 0
    with folder_lock(output):
        records = open_records(output, settings, dict(zip(names, found.photos)), ends)
        say_when_interrupted(lambda: "the same command goes on")
        pairs = zip(found.photos, names)
        left = [(path, name) for path, name in pairs if not is_done(output, records, name, path, ends)]
        num_earlier = num_photos - len(left)
        groups = [left[start : start + options.batch_size] for start in range(0, len(left), options.batch_size)]
        with progress_bar(num_photos, "photo", initial=num_earlier) as progress:
            as_taken = (options.full_size, segmenter.processor.num_bands)
            for group in read_ahead(lambda group: [read(*item, *as_taken) for item in group], groups):
                bad = process_group(group, output, segmenter, shown, colors)
                num_bad += len(bad)
                failures += bad
                progress.update(len(group))
    for failure in failures:
        print(f"skipped {failure}", file=sys.stderr)
    num_segmented = num_photos - num_bad
    summary = f"{num_segmented or 'none'} of {num_photos} photos segmented into {one_line(output)}"
    print(f"{summary}, {num_earlier} of them by earlier runs" if num_earlier else summary)
    return 1 if failures else 0
