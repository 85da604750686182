"""Measures speed: of the augmentation, beside mmsegmentation's on the same photos."""

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

from setr_hf.cli import JobParser, positive, run_job
from setr_hf.data.arguments import SplitArguments, load_data
from setr_hf.data.augmentation import to_tv_tensors, training_transform
from setr_hf.errors import SetrError


REFERENCE = Path(__file__).parent / "benchmarks" / "mmseg_augmentation.py"
SCALE_RANGE = (0.5, 2.0)


def parse_arguments(argv=None):
    parser = JobParser(SplitArguments, description=__doc__)
    option = parser.add_argument
    option("case", choices=CASES, metavar="CASE", help=f"what is measured: {', '.join(CASES)}")
    option("--num-images", type=positive, default=16, help="photos of the split, at most")
    option("--crop-size", type=int, nargs=2, default=(512, 512), metavar=("HEIGHT", "WIDTH"), help="in pixels")
    option(
        "--size", type=int, nargs=2, default=(512, 2048), metavar=("SHORT", "LONG"),
        help="sides that photos are fitted into at ratio 1; ratios are 0.5 to 2",
    )  # fmt: skip
    option("--rounds", type=positive, default=15, help="rounds, in each of which both codes have their turn")
    option("--passes", type=positive, default=10, help="passes over the photos in a round")
    option("--mmseg-python", metavar="PATH", help="Python with mmsegmentation 1.2.2, to measure it as well")
    parser.set_defaults(split="train")
    return parser.parse_args(argv)


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
            raise SetrError(f"{python} does not run mmsegmentation 1.2.2; its message is above") from None

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


def augmentation(arguments) -> None:
    """Measures the photos that one core transforms in a second, of ours and of mmsegmentation's transforms."""
    torch.set_num_threads(1)
    data = load_data(arguments, arguments.split)
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
        return
    settings = {"crop_size": arguments.crop_size, "scale": (long, short), "scale_range": SCALE_RANGE}
    settings |= {"mean": [255 * value for value in mean], "std": [255 * value for value in std]}
    with tempfile.TemporaryDirectory() as folder:
        settings |= write_files(data, Path(folder))
        with reference_timer(arguments.mmseg_python, settings) as timers["mmsegmentation"]:
            compare_both()


CASES = {"augmentation": augmentation}


def main(argv=None) -> int:
    arguments = parse_arguments(argv)
    CASES[arguments.case](arguments)
    return 0


if __name__ == "__main__":
    sys.exit(run_job(main))
