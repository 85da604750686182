"""Losses in tiles beside the same losses at full resolution: value, gradient, peak memory and time, in a table.

python scripts/benchmarks/losses.py
"""

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from plain_losses import plain_semantic_loss

from setr_hf.model.combined_losses_setr import semantic_loss
from setr_hf.model.loss_settings_setr import LossSettings
from setr_hf.tables import print_table
from setr_hf.training.memory import peak_memory


MULTICLASS = {
    "cross_entropy": {},
    "focal": {"weights": {"focal": 1.0}},
    "dice": {"weights": {"dice": 1.0}},
    "tversky": {"weights": {"tversky": 1.0}, "tversky_alpha": 0.3, "tversky_beta": 0.7},
    "ohem, p < 0.01": {"weights": {"ohem": 1.0}, "ohem_threshold": 0.01, "ohem_min_kept": 50_000},
    "ohem, largest losses": {"weights": {"ohem": 1.0}, "ohem_min_kept": 50_000},
    "cross_entropy + dice": {"weights": {"cross_entropy": 1.0, "dice": 0.5}, "label_smoothing": 0.1},
    "all of these": {"weights": {"cross_entropy": 1.0, "focal": 1.0, "dice": 1.0, "tversky": 1.0, "ohem": 1.0}},
}
BINARY = {
    "binary_cross_entropy": {"weights": {"binary_cross_entropy": 1.0}},
    "binary focal": {"weights": {"focal": 1.0}, "focal_alpha": 0.25},
    "binary_cross_entropy + dice": {"weights": {"binary_cross_entropy": 1.0, "dice": 0.5}},
}
# One logit a pixel takes so little memory that the code's own would show in a small batch.
BINARY_BATCHES = 8
# What writes 5 there sets the peak back to what the process takes now.
CLEAR_REFERENCES = Path("/proc/self/clear_refs")
# Freed tensors go back to the system at once, and count no further.
EXACT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def parse_arguments(argv: list[str] | None = None) -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--num-labels", type=int, default=150, help="of the losses that are not binary")
    parser.add_argument("--size", type=int, default=512, help="side of the labels, 4 times that of the logits")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls")
    parser.add_argument("--measure", nargs=3, metavar=("NAME", "CODE", "FILE"), help="of a process of its own")
    return parser.parse_args(argv)


def inputs(arguments: Namespace, num_labels: int, size: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch_size = arguments.batch_size * (BINARY_BATCHES if num_labels == 1 else 1)
    shape = (batch_size, num_labels, size // 4, size // 4)
    logits = torch.randn(shape, generator=generator).mul_(3).to(dtype).requires_grad_()
    labels = torch.randint(0, max(num_labels, 2), (batch_size, size, size), generator=generator)
    labels[:, : size // 8] = 255
    return logits, labels


def measure(arguments: Namespace) -> float:
    """The peak memory of one loss by one code, in bytes; value and gradient go to a file."""
    name, code, file = arguments.measure
    loss_of = semantic_loss if code == "tiled" else plain_semantic_loss
    dtype = torch.float64 if code == "exact" else torch.float32

    def step(size: int) -> tuple[float, torch.Tensor, torch.Tensor]:
        logits, labels = inputs(arguments, 1 if name in BINARY else arguments.num_labels, size, dtype)
        if CLEAR_REFERENCES.exists():
            CLEAR_REFERENCES.write_text("5")
        start = peak_memory()
        loss = loss_of(logits, labels, (size, size), LossSettings(**(MULTICLASS | BINARY)[name]))
        loss.backward()
        return peak_memory() - start, loss.detach(), logits.grad

    step(64)  # The first call takes memory of its own.
    memory, loss, gradient = step(arguments.size)
    torch.save((loss, gradient), file)
    return memory


def measured(arguments: Namespace, name: str, code: str, file: Path) -> float:
    options = [f"--{key}={getattr(arguments, key.replace('-', '_'))}" for key in ("batch-size", "num-labels", "size")]
    command = [sys.executable, __file__, *options, "--measure", name, code, str(file)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | EXACT_MEMORY)
    return json.loads(result.stdout)


def times(arguments: Namespace, losses: dict[str, dict], num_labels: int) -> dict[str, float]:
    """Seconds of each loss as a multiple of those of the first: the median over rounds in which each has its turn."""
    logits, labels = inputs(arguments, num_labels, arguments.size, torch.float32)
    ratios: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(arguments.rounds):
        seconds = {}
        for name, options in losses.items():
            start = time.perf_counter()
            semantic_loss(logits, labels, (arguments.size, arguments.size), LossSettings(**options)).backward()
            seconds[name] = time.perf_counter() - start
        for name, values in ratios.items():
            values.append(seconds[name] / seconds[next(iter(losses))])
    return {name: median(values) for name, values in ratios.items()}


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return 0
    rows = []
    with TemporaryDirectory() as folder:
        tiled_file, exact_file = Path(folder) / "tiled.pt", Path(folder) / "exact.pt"
        for losses, num_labels in ((MULTICLASS, arguments.num_labels), (BINARY, 1)):
            ratios, memories = times(arguments, losses, num_labels), []
            for name in losses:
                memories.append(measured(arguments, name, "tiled", tiled_file))
                plain = measured(arguments, name, "plain", exact_file)
                measured(arguments, name, "exact", exact_file)
                value, gradient = torch.load(tiled_file, weights_only=True)
                expected, exact_gradient = torch.load(exact_file, weights_only=True)
                errors = (value / expected - 1).abs(), (gradient - exact_gradient).norm() / exact_gradient.norm()
                sizes = (f"{memories[-1] / 2**20:.0f}", f"{memories[-1] / memories[0]:.2f}", f"{plain / 2**20:.0f}")
                rows.append((name, *(f"{float(error):.1e}" for error in errors), *sizes, f"{ratios[name]:.2f}"))
    print(
        f"{arguments.batch_size} images of {arguments.size}×{arguments.size} with {arguments.num_labels} classes, "
        f"{arguments.batch_size * BINARY_BATCHES} with one logit, at a quarter of the size; "
        f"{torch.get_num_threads()} threads. Errors are relative, beside fp64"
    )
    columns = ("loss", "value error", "gradient error", "tiled, MiB", "× its cross-entropy", "full resolution, MiB")
    print_table((*columns, "time × its cross-entropy"), rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
