"""Measures speed: of the augmentation, beside mmsegmentation's on the same photos."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import json
import os
import shutil
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from setr_hf.cli import JobParser, positive
from setr_hf.data.arguments import SplitArguments, load_data
from setr_hf.data.augmentation import to_tv_tensors, training_transform
from setr_hf.data.rows import SegmentationData
from setr_hf.errors import SetrError
from setr_hf.files import temporary_folder
from setr_hf.tables import print_table


REFERENCE = Path(__file__).parent / "benchmarks" / "mmseg_augmentation.py"
SCALE_RANGE = (0.5, 2.0)
# Seconds that a code takes for all photos, from "files" or decoded "arrays".
Timer = Callable[[str], float]


def parse_arguments(argv: list[str] | None = None) -> Namespace:
    parser = JobParser(SplitArguments, description=__doc__)
    option = parser.add_argument
    option("case", choices=CASES, metavar="CASE", help=f"what is measured: {', '.join(CASES)}")
    option("--num-images", type=positive, default=16, help="photos of the split, at most")
    option("--crop-size", type=positive, nargs=2, default=(512, 512), metavar=("HEIGHT", "WIDTH"), help="in pixels")
    option(
        "--size", type=positive, nargs=2, default=(512, 2048), metavar=("SHORT", "LONG"),
        help="sides that photos are fitted into at ratio 1; ratios are 0.5 to 2",
    )  # fmt: skip
    option("--rounds", type=positive, default=15, help="rounds, in each of which both codes have their turn")
    option("--passes", type=positive, default=10, help="passes over the photos in a round")
    option("--mmseg-python", metavar="PATH", help="Python with mmsegmentation 1.2.2, to measure it as well")
    parser.set_defaults(split="train")
    return parser.parse_args(argv)


def our_timer(data: SegmentationData, transform: v2.Transform) -> Timer:
    """A function that transforms every photo once, from `files` or `arrays`, and returns the seconds taken."""

    def read(row: dict) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
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


def write_files(data: SegmentationData, folder: Path) -> dict[str, list[str]]:
    """The photos as they are and their label maps, as files that the reference reads."""
    files: dict[str, list[str]] = {"photos": [], "annotations": []}
    for index, row in enumerate(data.undecoded):
        content, path = row["image"]["bytes"], row["image"]["path"]
        photo, annotation = folder / f"photo{index}", folder / f"annotation{index}.png"
        photo.write_bytes(content if content is not None else Path(path).read_bytes())
        Image.fromarray(data.read_labelled(row).label_map).save(annotation)
        files["photos"].append(str(photo))
        files["annotations"].append(str(annotation))
    return files


@contextmanager
def reference_timer(python: str, settings: dict) -> Iterator[Timer]:
    """As `our_timer`, for mmsegmentation's pipeline in another Python."""
    with subprocess.Popen(
        [python, str(REFERENCE), json.dumps(settings)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        commands, answers = process.stdin, process.stdout
        assert commands is not None and answers is not None

        def timer(source: str) -> float:
            try:
                commands.write(source + "\n")
                commands.flush()
                return float(answers.readline())
            except (BrokenPipeError, ValueError):
                process.kill()
                raise SetrError(f"{python} does not run mmsegmentation 1.2.2; its message is above") from None

        yield timer


def compare(timers: dict[str, Timer], source: str, num_images: int, rounds: int, passes: int) -> list[tuple]:
    """Rows of a table: the photos that each code transforms in a second and their ratio, over the rounds."""
    rates: dict[str, list[float]] = {name: [] for name in timers}
    for timer in timers.values():
        timer(source)
    for _ in range(rounds):
        for name, timer in timers.items():
            rates[name].append(num_images * passes / sum(timer(source) for _ in range(passes)))
    rows = {f"{name}, images/s": values for name, values in rates.items()}
    if len(rates) == 2:
        rows["ratio"] = [ours / theirs for ours, theirs in zip(*rates.values())]
    return [(name, *(f"{of(values):.2f}" for of in (median, min, max))) for name, values in rows.items()]


def augmentation(arguments: Namespace) -> None:
    """Measures the photos that one core transforms in a second, by our transforms and by mmsegmentation's."""
    python = arguments.mmseg_python
    if python is not None and shutil.which(python) is None:
        raise SetrError(f"--mmseg-python {python} is not a program here")
    torch.set_num_threads(1)
    data = load_data(arguments, arguments.split)
    data.check_annotations()
    data = data.select(range(min(arguments.num_images, len(data))))
    mean, std, (short, long) = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, arguments.size
    size = {"shortest_edge": short, "longest_edge": long}
    transform = training_transform(tuple(arguments.crop_size), SCALE_RANGE, size, mean, std)
    timers: dict[str, Timer] = {"setr-hf": our_timer(data, transform)}

    def compare_all() -> None:
        for source, title in (("arrays", "without decoding"), ("files", "with decoding")):
            rows = compare(timers, source, len(data), arguments.rounds, arguments.passes)
            print_table((title, "median", "min", "max"), rows)

    print(f"{len(data)} photos, crops of {arguments.crop_size[0]}×{arguments.crop_size[1]}, one thread")
    if python is None:
        print("mmsegmentation is not measured: --mmseg-python names a Python that has it")
        compare_all()
        return
    settings = {"crop_size": arguments.crop_size, "scale": (long, short), "scale_range": SCALE_RANGE}
    settings |= {"mean": [255 * value for value in mean], "std": [255 * value for value in std]}
    with temporary_folder() as folder:
        settings |= write_files(data, folder)
        with reference_timer(python, settings) as timers["mmsegmentation"]:
            compare_all()


CASES = {"augmentation": augmentation}


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    CASES[arguments.case](arguments)
    return 0
