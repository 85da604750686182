"""Measures speed and memory beside other code that does the same: Transformers', mmsegmentation's, plain PyTorch."""

if __name__ == "__main__":  # Here, as the imports below take seconds, in which it can be interrupted.
    from setr_hf_cli import run_script

    raise SystemExit(run_script(__file__))

import re
import shutil
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

import torch

from setr_hf.benchmarks.cases import CASES
from setr_hf.benchmarks.folders import SOURCE_OPTIONS
from setr_hf.benchmarks.measuring import measure
from setr_hf.benchmarks.networks import MODEL_SIZES
from setr_hf.benchmarks.quantization import NETWORK_OPTIONS
from setr_hf.benchmarks.results import machine, show
from setr_hf.cli import JobParser, positive
from setr_hf.data.arguments import DataArguments
from setr_hf.errors import SetrError
from setr_hf.files import check_is_file, make_folder, write_json
from setr_hf.inference.quantization import QUANTIZATIONS
from setr_hf.model.configuration_setr import DECODER_TYPES, SetrConfig
from setr_hf.repositories import check_model


PATCH_SIZE = SetrConfig.patch_size
WORKER = Path(__file__).parent / "benchmarks" / "worker.py"


def photo_size(text: str) -> tuple[int, int]:
    """The type of height and width as in 512x683, in pixels."""
    match = re.fullmatch(r"([1-9]\d{0,4})[x×]([1-9]\d{0,4})", text, re.ASCII)
    if match is None:
        raise ArgumentTypeError(f"must be a height and a width such as 512x683, got {text!r}")
    return int(match[1]), int(match[2])


def whole_patches(text: str) -> int:
    """The type of a side of images, which plain code cuts into patches as it is."""
    side = positive(text)
    if side % PATCH_SIZE:
        raise ArgumentTypeError(f"must be a multiple of {PATCH_SIZE}, got {text!r}")
    return side


def ratio(text: str) -> float:
    """The type of options that multiply a size."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 8:
        raise ArgumentTypeError(f"must be a number above 0, at most 8, got {text!r}")
    return number


def add_case_options(option: Any) -> None:
    """The options that only some cases heed."""
    option("--size", type=whole_patches, default=512, metavar="N", help="side of images, windows and crops in pixels")
    option("--logits", type=positive, nargs="+", help="sides of the logits")
    option("--num-labels", type=positive, default=150, help="classes")
    option("--batch-size", type=positive, default=2, help="images of a training step")
    option("--model-size", choices=tuple(MODEL_SIZES), help="encoder")
    option("--decoders", choices=DECODER_TYPES, nargs="+", help="decoders")
    option("--model", help="folder or Hub id of a trained model instead of random weights")
    option("--quantizations", choices=tuple(QUANTIZATIONS), nargs="+", help="of those that can be loaded")
    option("--dtypes", choices=("float32", "bfloat16"), nargs="+", help="precisions")
    option("--scales", type=ratio, nargs="+", metavar="RATIO", help="of the multi-scale protocol")
    option("--photo", type=Path, help="a photo of yours instead of generated ones")
    option("--photo-sizes", type=photo_size, nargs="+", metavar="HxW", help="of generated ones, such as 512x683")
    option("--num-images", type=positive, default=16, help="photos of the data set, or generated ones, at most")
    option("--split", default="validation", help="split of the data set")
    option(
        "--photo-sides", type=positive, nargs=2, default=(512, 2048), metavar=("SHORT", "LONG"),
        help="sides that augmentation fits photos into at ratio 1",
    )  # fmt: skip


def parse_arguments(argv: list[str] | None = None) -> Namespace:
    parser = JobParser(DataArguments, description=__doc__)
    option = parser.add_argument
    option("cases", nargs="+", choices=("all", *CASES), metavar="CASE", help=f"all, or some of {', '.join(CASES)}")
    option("--rounds", type=positive, default=9, help="rounds, in each of which all codes have their turn")
    option("--turn", type=ratio, default=0.5, metavar="SECONDS", help="least length of a turn, at most 8 seconds")
    option("--threads", type=positive, default=1, help="CPU threads of each code")
    option("--device", choices=("cpu", "cuda"), default="cpu", help="where models run")
    option("--mmseg-python", metavar="PATH", help="Python with mmsegmentation 1.2.2, to measure it as well")
    option("--json", type=Path, help="file for all figures")
    option("--markdown", action="store_true", help="print the table as Markdown")
    add_case_options(option)
    arguments = parser.parse_args(argv)
    if "all" in arguments.cases:
        arguments.cases = list(CASES)
    heeded = {name for case in arguments.cases for name in CASES[case].OPTIONS}
    for name in sorted({name for case in CASES.values() for name in case.OPTIONS}):
        if getattr(arguments, name) == parser.get_default(name):
            continue
        if name not in heeded:
            parser.error(f"--{name.replace('_', '-')} does nothing for {', '.join(arguments.cases)}")
        if name in SOURCE_OPTIONS and arguments.dataset is None:
            parser.error(f"--{name.replace('_', '-')} does nothing without --dataset")
        if name in NETWORK_OPTIONS and arguments.model is not None:
            parser.error(f"--{name.replace('_', '-')} does nothing for the network of --model")
    return arguments


def check(arguments: Namespace) -> None:
    """Raises [`SetrError`] for what would be found out only after hours."""
    python = arguments.mmseg_python
    if python is not None and shutil.which(python) is None:
        raise SetrError(f"--mmseg-python {python} is not a program here")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SetrError("--device cuda: torch finds no GPU")
    if arguments.model is not None:
        check_model(arguments.model)
    if arguments.photo is not None:
        check_is_file(arguments.photo)
    if arguments.json is not None:
        make_folder(arguments.json.parent)
        if arguments.json.is_dir():
            raise SetrError(f"--json {arguments.json} is a folder: name a file")


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    check(arguments)
    torch.set_num_threads(arguments.threads)
    where = machine(arguments.device, arguments.threads)
    print(", ".join(f"{name} {value}" for name, value in where.items()), file=sys.stderr)
    if arguments.mmseg_python is None:
        print("mmsegmentation is not measured: --mmseg-python names a Python that has it", file=sys.stderr)
    results: list[dict[str, Any]] = []
    for case in dict.fromkeys(arguments.cases):
        for comparison in CASES[case].comparisons(arguments):
            print(f"{case}: {comparison.title}", file=sys.stderr)
            measured = measure(comparison, WORKER, arguments.rounds, arguments.turn, arguments.mmseg_python)
            results.append({"case": case, **measured})
            if arguments.json is not None:
                write_json(arguments.json, {"machine": where, "rounds": arguments.rounds, "results": results})
    show(results, arguments.markdown)
    return 0
