"""Segments photos: a label map, an overlay with a legend and a table of the classes for each."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import argparse
import errno
import os
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import BaseImageProcessor, PreTrainedModel

from setr_hf.cli import JobParser
from setr_hf.data.folders import IMAGE_SUFFIXES
from setr_hf.errors import SetrError
from setr_hf.files import folder_lock
from setr_hf.inference.loading import load_model
from setr_hf.inference.output_folder import (
    add_record,
    check_overwrites_nothing,
    is_done,
    open_records,
    photo_state,
    result_names,
    write_results,
)
from setr_hf.inference.photos import read_photo
from setr_hf.inference.pictures import class_colors
from setr_hf.inference.settings import digest, model_settings
from setr_hf.inference.sliding_windows import segment
from setr_hf.repositories import check_model
from setr_hf.text import one_line
from setr_hf_ending import say_when_interrupted


# What a file system says of a name that is too long, or has characters that it does not take.
UNFIT_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


def usable_device(name: str) -> torch.device:
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = one_line(error, 200)
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used: {reason}") from None
    return torch.device(name)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = JobParser(description=__doc__)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="PHOTO", help="photos, or folders of photos")
    parser.add_argument("--model", required=True, help="folder or Hub id of a SETR model")
    parser.add_argument("--output", required=True, type=Path, help="folder for the results, created if missing")
    parser.add_argument("--device", type=usable_device, default=device, help="where the model computes")
    return parser.parse_args(argv)


def find_photos(inputs: list[Path]) -> list[Path]:
    """The given files, and the image files in the given folders, in order."""
    photos: list[Path] = []
    for path in inputs:
        if os.path.isdir(path):
            photos += sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        else:
            photos.append(path)
    return photos


def segmented(path: Path, model: PreTrainedModel, processor: BaseImageProcessor) -> tuple[Image.Image, np.ndarray]:
    """The photo in a file, and its label map. Raises [`SetrError`] that names the file."""
    photo = read_photo(path)
    try:
        label_map = segment(model, processor, [photo])[0].numpy()
    except SetrError as error:
        raise SetrError(f"{path}: {error}") from error
    return photo, label_map.astype(np.uint8 if model.config.num_labels <= 256 else np.uint16)


def process_photo(
    path: Path, name: str, output: Path, model: PreTrainedModel, processor: BaseImageProcessor, colors: list[list[int]]
) -> str | None:
    """Segments a photo and writes its results, or returns a line that names it and says why not."""
    state = photo_state(path)
    try:
        photo, label_map = segmented(path, model, processor)
    except SetrError as error:
        return str(error)
    try:
        add_record(output, name, path, None)
        write_results(output, name, photo, label_map, colors, model.config.id2label)
        add_record(output, name, path, state)
    except OSError as error:
        if error.errno not in UNFIT_NAME:
            raise
        return one_line(f"{path}: its results cannot have its name: {error.strerror}")
    return None


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    output = arguments.output
    photos = find_photos(arguments.inputs)
    if not photos:
        raise SetrError(f"no photos found in {', '.join(map(str, arguments.inputs))}")
    names = result_names(photos)
    check_overwrites_nothing(arguments.inputs, photos, output, names)
    check_model(arguments.model)
    model, processor = load_model(arguments.model, device=arguments.device)
    colors = class_colors(model.config)
    # Devices and threads change rounding and, rarely, a pixel: a job may go on with others.
    settings = {**model_settings(model, processor), "classes": digest([model.config.id2label, colors])}
    failures = []
    with folder_lock(output):
        records = open_records(output, settings, dict(zip(names, photos)))
        say_when_interrupted(lambda: "the same command goes on")
        left = [(path, name) for path, name in zip(photos, names) if not is_done(output, records, name, path)]
        num_earlier = len(photos) - len(left)
        for path, name in tqdm(left, unit="photo", initial=num_earlier, total=len(photos)):
            if failure := process_photo(path, name, output, model, processor, colors):
                failures.append(failure)
    for failure in failures:
        print(f"skipped {failure}", file=sys.stderr)
    num_segmented = len(photos) - len(failures)
    summary = f"{num_segmented or 'none'} of {len(photos)} photos segmented into {one_line(output)}"
    print(f"{summary}, {num_earlier} of them by earlier runs" if num_earlier else summary)
    return 1 if failures else 0
