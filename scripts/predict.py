"""Segments photos: a label map, an overlay with a legend and a table of the classes for each."""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from setr_hf.cli import JobParser, run_job
from setr_hf.data.folders import IMAGE_SUFFIXES
from setr_hf.errors import SetrError
from setr_hf.files import whole_file
from setr_hf.inference.loading import load_model
from setr_hf.inference.photos import read_photo
from setr_hf.inference.pictures import class_colors, class_shares, overlay_with_legend
from setr_hf.inference.sliding_windows import segment
from setr_hf.repositories import check_model


def usable_device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used: {error}") from None


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


def write_results(
    folder: Path, stem: str, photo: Image.Image, label_map: np.ndarray, colors: list[list[int]], id2label: dict
) -> None:
    """`STEM.png` with class ids, `STEM_overlay.jpg`, and `STEM.csv` with the share of the area of each class."""
    with whole_file(folder / f"{stem}.png") as unfinished:
        Image.fromarray(label_map).save(unfinished)
    with whole_file(folder / f"{stem}_overlay.jpg") as unfinished:
        overlay_with_legend(photo, label_map, colors, id2label).save(unfinished, quality=90)
    with whole_file(folder / f"{stem}.csv") as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "class", "share"])
        table.writerows([i, id2label[i], f"{share:.6f}"] for i, share in class_shares(label_map).items())


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    paths = find_photos(arguments.inputs)
    if not paths:
        raise SetrError(f"no photos found in {', '.join(map(str, arguments.inputs))}")
    stems = output_stems(paths)
    check_model(arguments.model)
    model, processor = load_model(arguments.model, device=arguments.device)
    colors = class_colors(model.config)
    id_type = np.uint8 if model.config.num_labels <= 256 else np.uint16
    failures = []
    for path, stem in zip(tqdm(paths, unit="photo"), stems):
        try:
            photo = read_photo(path)
        except SetrError as error:
            failures.append(str(error))
            continue
        label_map = segment(model, processor, [photo])[0].numpy().astype(id_type)
        write_results(arguments.output, stem, photo, label_map, colors, model.config.id2label)
    for failure in failures:
        print(f"skipped {failure}", file=sys.stderr)
    print(f"{len(paths) - len(failures)} of {len(paths)} photos segmented into {arguments.output}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(run_job(main))
