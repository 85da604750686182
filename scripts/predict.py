"""Segments photographs: a label map, an overlay with a legend and a table of the classes for each."""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from setr_hf.cli import run_job
from setr_hf.data.folders import IMAGE_SUFFIXES
from setr_hf.inference.pictures import class_colors, class_shares, overlay_with_legend
from setr_hf.inference.sliding_windows import segment
from setr_hf.model.image_processing_setr import pil_to_rgb


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, help="photographs, or folders of them")
    parser.add_argument("--model", required=True, help="folder or Hub id of a SETR model")
    parser.add_argument("--output", required=True, type=Path, help="folder for the results; made if missing")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


def find_photos(inputs: list[Path]) -> list[Path]:
    """The files named, and those in the folders named that look like images, in order."""
    photos = []
    for path in inputs:
        if path.is_dir():
            photos += sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        else:
            photos.append(path)
    return photos


def output_stems(photos: list[Path]) -> list[str]:
    """A name for each photo's results: its own without suffix, with the suffix where two would be the same."""
    stems = [photo.stem for photo in photos]
    names = [photo.name.replace(".", "_") if stems.count(photo.stem) > 1 else photo.stem for photo in photos]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"several photographs are called {', '.join(repeated)}: give each folder its own --output")
    return names


def write_results(folder: Path, stem: str, photo: Image.Image, label_map: np.ndarray, config):
    """`STEM.png` with class ids, `STEM_overlay.jpg`, and `STEM.csv` with the share of the area of each class."""
    Image.fromarray(label_map).save(folder / f"{stem}.png")
    overlay_with_legend(photo, label_map, class_colors(config), config.id2label).save(folder / f"{stem}_overlay.jpg")
    with open(folder / f"{stem}.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "class", "share"])
        table.writerows([i, config.id2label[i], f"{share:.6f}"] for i, share in class_shares(label_map).items())


def main(argv=None) -> int:
    arguments = parse_arguments(argv)
    photos = find_photos(arguments.inputs)
    if not photos:
        print("no photographs found", file=sys.stderr)
        return 2
    stems = output_stems(photos)
    model = AutoModelForSemanticSegmentation.from_pretrained(arguments.model).to(arguments.device).eval()
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    id_type = np.uint8 if model.config.num_labels <= 256 else np.uint16
    arguments.output.mkdir(parents=True, exist_ok=True)
    failures = []
    for path, stem in zip(tqdm(photos, unit="photo"), stems):
        try:
            photo = pil_to_rgb(ImageOps.exif_transpose(Image.open(path)))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            failures.append(f"{path}: {error}")
            continue
        label_map = segment(model, processor, [photo])[0].numpy().astype(id_type)
        write_results(arguments.output, stem, photo, label_map, model.config)
    for failure in failures:
        print(f"skipped {failure}", file=sys.stderr)
    print(f"{len(photos) - len(failures)} of {len(photos)} photographs segmented into {arguments.output}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(run_job(main))
