"""What the benchmarks found, as a table and as Markdown."""

import platform
from collections.abc import Iterator
from typing import Any

import torch
import transformers

from ..tables import print_table
from .measuring import OURS


COLUMNS = ("case", "beside", "times as fast", "ours", "theirs", "times less memory", "ours, MB", "theirs, MB", "also")


def machine(device: str, threads: int) -> dict[str, Any]:
    """Where and with what is measured."""
    name = torch.cuda.get_device_name() if device == "cuda" else cpu_name()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": device, "processor": name, "threads": threads, **versions}


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def duration(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def megabytes(memory: int | None) -> str | None:
    if memory is None:
        return None
    return f"{memory / 1e6:.3g}" if memory < 1e8 else f"{memory / 1e6:.0f}"


def of(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['min']:.2f}–{spread['max']:.2f})"


def fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def rows(results: list[dict[str, Any]]) -> Iterator[tuple[str | None, ...]]:
    """A row for each code that ours was compared with, or one of ours alone."""
    for result in results:
        codes = result["codes"]
        ours = codes[OURS]
        also = "; ".join(f"{name}: {fact(value)}" for name, value in result["facts"].items())
        for name in list(codes)[1:] or [None]:
            theirs = {} if name is None else codes[name]
            compared = {} if name is None else result["references"][name]
            yield (
                f"{result['case']}: {result['title']}",
                name,
                of(compared["speed"]) if compared else None,
                duration(ours["seconds"]["median"]),
                duration(theirs["seconds"]["median"]) if theirs else None,
                f"{compared['memory']:.1f}" if compared and compared["memory"] is not None else None,
                megabytes(ours["memory"]),
                megabytes(theirs["memory"]) if theirs else None,
                also or None,
            )


def show(results: list[dict[str, Any]], as_markdown: bool) -> None:
    """Prints a row for each code that ours was compared with: medians, and of the ratio also minimum and maximum."""
    if not as_markdown:
        print_table(COLUMNS, rows(results))
        return
    for row in (COLUMNS, ["---"] * len(COLUMNS), *rows(results)):
        print(f"| {' | '.join('–' if cell is None else cell for cell in row)} |")
