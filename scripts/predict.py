"""Segments photos: a label map, an overlay with a legend and a table of the classes for each."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from setr_hf.cli import JobParser
from setr_hf.data.folders import IMAGE_SUFFIXES
from setr_hf.errors import SetrError
from setr_hf.files import folder_lock, whole_file
from setr_hf.inference.loading import load_model
from setr_hf.inference.photos import read_photo
from setr_hf.inference.pictures import class_colors, class_shares, overlay_with_legend
from setr_hf.inference.sliding_windows import segment
from setr_hf.repositories import check_model
from setr_hf.text import csv_cell, one_line


# What is written for each photo, after its name.
RESULTS = (".png", "_overlay.jpg", ".csv")


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
        if path.is_dir():
            photos += sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        else:
            photos.append(path)
    return photos


def output_stems(photos: list[Path]) -> list[str]:
    """A name for each photo's results: its own, with its suffix where needed. [`SetrError`] if two are equal."""
    stems = [photo.stem for photo in photos]
    names = [photo.name.replace(".", "_") if stems.count(photo.stem) > 1 else photo.stem for photo in photos]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SetrError(f"several photos are called {', '.join(repeated)}: give each folder its own --output")
    return names


def check_overwrites_nothing(inputs: list[Path], photos: list[Path], folder: Path, stems: list[str]) -> None:
    """Raises a [`SetrError`] if results would go into a folder of photos, where the next run would take them for
    photos, or one would take the place of a photo.
    """
    if any(path.is_dir() and folder.exists() and path.samefile(folder) for path in inputs):
        raise SetrError(f"{folder} holds the photos: name another --output")
    taken = {identity(photo) for photo in photos if photo.exists()}
    for stem in stems:
        for result in (folder / f"{stem}{end}" for end in RESULTS):
            if result.exists() and identity(result) in taken:
                raise SetrError(f"{result} is one of the photos and would be overwritten: name another --output")


def identity(path: Path) -> tuple[int, int]:
    """The same for all names of a file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def write_results(
    folder: Path, stem: str, photo: Image.Image, label_map: np.ndarray, colors: list[list[int]], id2label: dict
) -> None:
    """`STEM.png` with class ids, `STEM_overlay.jpg`, and `STEM.csv` with the share of the area of each class."""
    ids, picture, shares = (folder / f"{stem}{end}" for end in RESULTS)
    with whole_file(ids) as unfinished:
        Image.fromarray(label_map).save(unfinished)
    with whole_file(picture) as unfinished:
        overlay_with_legend(photo, label_map, colors, id2label).save(unfinished, quality=90)
    with whole_file(shares) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "class", "share"])
        table.writerows([i, csv_cell(id2label[i]), f"{share:.6f}"] for i, share in class_shares(label_map).items())


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    paths = find_photos(arguments.inputs)
    if not paths:
        raise SetrError(f"no photos found in {', '.join(map(str, arguments.inputs))}")
    stems = output_stems(paths)
    check_overwrites_nothing(arguments.inputs, paths, arguments.output, stems)
    check_model(arguments.model)
    model, processor = load_model(arguments.model, device=arguments.device)
    colors = class_colors(model.config)
    id_type = np.uint8 if model.config.num_labels <= 256 else np.uint16
    failures = []
    with folder_lock(arguments.output):
        for path, stem in zip(tqdm(paths, unit="photo"), stems):
            try:
                photo = read_photo(path)
                label_map = segment(model, processor, [photo])[0].numpy().astype(id_type)
            except SetrError as error:
                failures.append(str(error))
                continue
            except ValueError as error:
                failures.append(one_line(f"{path}: {error}"))
                continue
            write_results(arguments.output, stem, photo, label_map, colors, model.config.id2label)
    for failure in failures:
        print(f"skipped {failure}", file=sys.stderr)
    print(f"{len(paths) - len(failures)} of {len(paths)} photos segmented into {arguments.output}")
    return 1 if failures else 0
