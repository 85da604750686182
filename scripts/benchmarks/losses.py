"""Losses in tiles beside the same losses at full resolution: value, gradient, peak memory and time. Prints a table.

python scripts/benchmarks/losses.py
"""

import json
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
# What writes 5 there sets the peak back to what the process takes now.
CLEAR_REFERENCES = Path("/proc/self/clear_refs")


def parse_arguments(argv: list[str] | None = None) -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--num-labels", type=int, default=150, help="of the losses that are not binary")
    parser.add_argument("--size", type=int, default=512, help="side of the labels, 4 times that of the logits")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls")
    parser.add_argument("--measure", nargs=3, metavar=("NAME", "CODE", "FILE"), help="of a process of its own")
    return parser.parse_args(argv)


def measure(arguments: Namespace) -> dict[str, float]:
    """Peak memory and time of one loss by one code; value and gradient go to a file."""
    name, code, file = arguments.measure
    wanted = LossSettings(**(MULTICLASS | BINARY)[name])
    loss_of = semantic_loss if code == "tiled" else plain_semantic_loss
    dtype = torch.float64 if code == "exact" else torch.float32
    num_labels = 1 if name in BINARY else arguments.num_labels

    def step(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        shape = (arguments.batch_size, num_labels, size // 4, size // 4)
        logits = torch.randn(shape, generator=generator).mul_(3).to(dtype).requires_grad_()
        labels = torch.randint(0, max(num_labels, 2), (arguments.batch_size, size, size), generator=generator)
        labels[:, : size // 8] = 255
        if CLEAR_REFERENCES.exists():
            CLEAR_REFERENCES.write_text("5")
        start = time.perf_counter()
        loss = loss_of(logits, labels, (size, size), wanted)
        loss.backward()
        times.append(time.perf_counter() - start)
        return loss.detach(), logits.grad

    times: list[float] = []
    step(64)  # The first call takes memory of its own.
    before = peak_memory()
    torch.save(step(arguments.size), file)
    memory = peak_memory() - before
    if code == "tiled":
        for _ in range(arguments.rounds):
            step(arguments.size)
    return {"memory": memory, "seconds": median(times[1:])}


def measured(arguments: Namespace, name: str, code: str, file: Path) -> dict[str, float]:
    options = [f"--{key}={getattr(arguments, key.replace('-', '_'))}" for key in ("batch-size", "num-labels", "size")]
    command = [sys.executable, __file__, *options, f"--rounds={arguments.rounds}", "--measure", name, code, str(file)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(result.stdout)


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return 0
    rows, baseline = [], {}
    with TemporaryDirectory() as folder:
        tiled_file, exact_file = Path(folder) / "tiled.pt", Path(folder) / "exact.pt"
        for name in MULTICLASS | BINARY:
            tiled = measured(arguments, name, "tiled", tiled_file)
            plain = measured(arguments, name, "plain", exact_file)
            measured(arguments, name, "exact", exact_file)
            value, gradient = torch.load(tiled_file, weights_only=True)
            expected, exact_gradient = torch.load(exact_file, weights_only=True)
            if name in ("cross_entropy", "binary_cross_entropy"):
                baseline = tiled
            rows.append(
                (
                    name,
                    f"{float(abs(value / expected - 1)):.1e}",
                    f"{float((gradient - exact_gradient).norm() / exact_gradient.norm()):.1e}",
                    f"{tiled['memory'] / 2**20:.0f}",
                    f"{tiled['memory'] / baseline['memory']:.2f}",
                    f"{plain['memory'] / 2**20:.0f}",
                    f"{tiled['seconds'] / baseline['seconds']:.2f}",
                )
            )
    print(
        f"{arguments.batch_size} images of {arguments.size}×{arguments.size}, {arguments.num_labels} classes or one "
        f"logit, at a quarter of the size; {torch.get_num_threads()} threads. Errors are relative, beside fp64"
    )
    columns = ("loss", "value error", "gradient error", "tiled, MiB", "× its cross-entropy", "full resolution, MiB")
    print_table((*columns, "time × its cross-entropy"), rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
