"""Segments photos: a label map, an overlay with a legend and a table of the classes for each."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import argparse
import csv
import errno
import io
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
from setr_hf.files import folder_lock, whole_file
from setr_hf.inference.loading import load_model
from setr_hf.inference.output_folder import (
    add_record,
    check_overwrites_nothing,
    is_done,
    open_records,
    photo_state,
    result_files,
    result_names,
)
from setr_hf.inference.photos import read_photo
from setr_hf.inference.pictures import class_colors, class_shares, overlay_with_legend
from setr_hf.inference.settings import digest, model_settings
from setr_hf.inference.sliding_windows import segment
from setr_hf.repositories import check_model
from setr_hf.text import csv_cell, one_line
from setr_hf_ending import say_when_interrupted


# A file system that takes no name so long, one of these characters, or one that is not UTF-8.
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


def write_results(
    folder: Path, name: str, photo: Image.Image, label_map: np.ndarray, colors: list[list[int]], id2label: dict
) -> None:
    """`NAME.png` with class ids, `NAME_overlay.jpg`, and `NAME.csv` with the share of the area of each class."""
    picture, ids, shares = result_files(folder, name)
    encoded = io.BytesIO()
    overlay_with_legend(photo, label_map, colors, id2label).save(encoded, "JPEG", quality=90)
    with whole_file(picture) as unfinished:
        # Pillow does not notice if the disk takes only a part of a JPEG.
        unfinished.write_bytes(encoded.getbuffer())
    with whole_file(ids) as unfinished:
        Image.fromarray(label_map).save(unfinished)
    with whole_file(shares) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "class", "share"])
        table.writerows([i, csv_cell(id2label[i]), f"{share:.6f}"] for i, share in class_shares(label_map).items())


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    output = arguments.output
    paths = find_photos(arguments.inputs)
    if not paths:
        raise SetrError(f"no photos found in {', '.join(map(str, arguments.inputs))}")
    names = result_names(paths)
    check_overwrites_nothing(arguments.inputs, paths, output, names)
    check_model(arguments.model)
    model, processor = load_model(arguments.model, device=arguments.device)
    colors, id2label = class_colors(model.config), model.config.id2label
    settings = {**model_settings(model, processor), "classes": digest([id2label, colors])}
    failures = []
    with folder_lock(output):
        records = open_records(output, settings, dict(zip(names, paths)))
        say_when_interrupted(lambda: "the same command goes on")
        left = [pair for pair in zip(names, paths) if not is_done(output, records, *pair)]
        num_earlier = len(paths) - len(left)
        for name, path in tqdm(left, unit="photo", initial=num_earlier, total=len(paths)):
            state = photo_state(path)
            try:
                photo, label_map = segmented(path, model, processor)
            except SetrError as error:
                failures.append(str(error))
                continue
            try:
                add_record(output, name, path, None)
                write_results(output, name, photo, label_map, colors, id2label)
                add_record(output, name, path, state)
            except OSError as error:
                if error.errno not in UNFIT_NAME:
                    raise
                failures.append(one_line(f"{path}: its results cannot have its name: {error.strerror}"))
    for failure in failures:
        print(f"skipped {failure}", file=sys.stderr)
    num_segmented = len(paths) - len(failures)
    summary = f"{num_segmented or 'none'} of {len(paths)} photos segmented into {one_line(output)}"
    print(f"{summary}, {num_earlier} of them by earlier runs" if num_earlier else summary)
    return 1 if failures else 0
