"""Measures speed: of the augmentation, beside mmsegmentation's on the same photographs."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from setr_hf.cli import run_job
from setr_hf.data.augmentation import to_tv_tensors, training_transform
from setr_hf.data.loading import load_segmentation_data


REFERENCE = Path(__file__).parent / "benchmarks" / "mmseg_augmentation.py"
SCALE_RANGE = (0.5, 2.0)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    augmentation = kinds.add_parser(
        "augmentation",
        help="photographs transformed in a second by one core",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    option = augmentation.add_argument
    option("--dataset", required=True, help="folder or Hub id of photographs with annotations")
    option("--split", default="train", help="which part of the data")
    option("--num-images", type=int, default=16, help="how many photographs of the split, at most")
    option("--crop-size", type=int, nargs=2, default=(512, 512), metavar=("HEIGHT", "WIDTH"), help="in pixels")
    limits = "limits that images are fitted into at ratio 1; ratios are 0.5 to 2"
    option("--size", type=int, nargs=2, default=(512, 2048), metavar=("SHORT", "LONG"), help=limits)
    option("--rounds", type=int, default=15, help="rounds, those of both codes in turn")
    option("--passes", type=int, default=10, help="passes over the photographs in a round")
    option("--mmseg-python", help="Python that has mmsegmentation 1.2.2; without it only ours is measured")
    arguments = parser.parse_args(argv)
    for name in ("num_images", "rounds", "passes"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    return arguments


def our_timer(data, transform):
    """A function that transforms every photograph once, from `files` or `arrays`, and returns the seconds taken."""

    def read(row):
        sample = data.read_labelled(row)
        return to_tv_tensors(sample.photo, sample.label_map)

    rows = list(data.undecoded)
    pairs = [read(row) for row in rows]

    def timer(source: str) -> float:
        start = time.process_time()
        for image, labels in map(read, rows) if source == "files" else pairs:
            transform(image, labels)[1].long()
        return time.process_time() - start

    return timer


def write_files(data, folder: Path) -> dict[str, list[str]]:
    """The photographs as they are and their class ids, as files that the reference reads."""
    files = {"photos": [], "annotations": []}
    for index, row in enumerate(data.undecoded):
        content, path = row["image"]["bytes"], row["image"]["path"]
        photo, annotation = folder / f"photo{index}", folder / f"annotation{index}.png"
        photo.write_bytes(content if content is not None else Path(path).read_bytes())
        Image.fromarray(data.read_labelled(row).label_map).save(annotation)
        files["photos"].append(str(photo))
        files["annotations"].append(str(annotation))
    return files


@contextmanager
def reference_timer(python: str, settings: dict):
    """As `our_timer`, for mmsegmentation's pipeline in another Python."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def timer(source: str) -> float:
        try:
            process.stdin.write(source + "\n")
            process.stdin.flush()
            return float(process.stdout.readline())
        except (BrokenPipeError, ValueError):
            process.kill()
            raise ValueError(f"{python} does not run mmsegmentation 1.2.2; its message is above") from None

    with subprocess.Popen([python, str(REFERENCE), json.dumps(settings)], env=environment, **pipes) as process:
        yield timer


def compare(timers: dict, source: str, num_images: int, rounds: int, passes: int):
    """Prints the photographs that each code transforms in a second and their ratio: median and extremes of rounds."""
    rates = {name: [] for name in timers}
    for timer in timers.values():
        timer(source)
    for _ in range(rounds):
        for name, timer in timers.items():
            rates[name].append(num_images * passes / sum(timer(source) for _ in range(passes)))
    rows = {f"{name}, images/s": values for name, values in rates.items()}
    if len(rates) == 2:
        rows["ratio"] = [ours / theirs for ours, theirs in zip(*rates.values())]
    for name, values in rows.items():
        print(f"{name:<26}{median(values):>9.2f}{min(values):>9.2f}{max(values):>9.2f}", flush=True)


def main(argv=None) -> int:
    arguments = parse_arguments(argv)
    torch.set_num_threads(1)
    data = load_segmentation_data(arguments.dataset, arguments.split)
    data.check_annotations()
    data = data.select(range(min(arguments.num_images, len(data))))
    mean, std, (short, long) = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, arguments.size
    size = {"shortest_edge": short, "longest_edge": long}
    transform = training_transform(tuple(arguments.crop_size), SCALE_RANGE, size, mean, std)
    timers = {"setr-hf": our_timer(data, transform)}

    def compare_both():
        for source, title in (("arrays", "without decoding"), ("files", "with decoding")):
            print(f"{title:<26}{'median':>9}{'min':>9}{'max':>9}")
            compare(timers, source, len(data), arguments.rounds, arguments.passes)

    print(f"{len(data)} photographs, crops of {arguments.crop_size[0]}×{arguments.crop_size[1]}, one thread")
    if arguments.mmseg_python is None:
        print("mmsegmentation is not measured: --mmseg-python names a Python that has it")
        compare_both()
        return 0
    settings = {"crop_size": arguments.crop_size, "scale": (long, short), "scale_range": SCALE_RANGE}
    settings |= {"mean": [255 * value for value in mean], "std": [255 * value for value in std]}
    with tempfile.TemporaryDirectory() as folder:
        settings |= write_files(data, Path(folder))
        with reference_timer(arguments.mmseg_python, settings) as timers["mmsegmentation"]:
            compare_both()
    return 0


if __name__ == "__main__":
    sys.exit(run_job(main))
