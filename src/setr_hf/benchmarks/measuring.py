"""Ours and other code side by side: a process for each, whose turns alternate."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

from setr_hf_ending import CLEAN_UPS

from ..errors import SetrError


OURS = "setr-hf"
MMSEG = "mmsegmentation"


@dataclass(frozen=True)
class Comparison:
    """One thing that several codes do.

    Args:
        title (`str`): What, in a few words.
        module (`str`): The module whose `CODES` holds them.
        setting (`dict`): Their argument; goes through JSON.
        references (`tuple[str, ...]`): The codes that ours is compared with. [`MMSEG`] runs in its own Python.
        mmseg_code (`str`): What that code is called in `scripts/benchmarks/mmseg_codes.py`.
        warm_up (`dict`): What makes the setting small, for a run that loads libraries.
        work (`dict[str, float]`): How much a run of each code does, if they differ.
        facts (callable): Returns what else there is to say of the results, by name, such as how far they agree.
    """

    title: str
    module: str
    setting: dict[str, Any]
    references: tuple[str, ...]
    mmseg_code: str = ""
    warm_up: dict[str, Any] = field(default_factory=dict)
    work: dict[str, float] = field(default_factory=dict)
    facts: Callable[[], dict[str, Any]] = dict


class Worker:
    """A process that measures one code of a comparison; see `scripts/benchmarks/worker.py`."""

    def __init__(self, script: Path, comparison: Comparison, code: str, turn: float, mmseg_python: str | None):
        python, module, name = sys.executable, comparison.module, code
        if code == MMSEG:
            assert mmseg_python is not None
            python, module, name = mmseg_python, "mmseg_codes", comparison.mmseg_code
        self.failure = (
            f"{python} does not run mmsegmentation 1.2.2; its message is above"
            if code == MMSEG
            else f"{comparison.title} cannot be measured with {code}; its message is above"
        )
        options = (json.dumps(part) for part in (comparison.setting, comparison.warm_up, turn))
        threads = str(comparison.setting["threads"])
        self.process = subprocess.Popen(
            [python, str(script), module, name, *options],
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        CLEAN_UPS.append(self.process.kill)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            self.process.kill()
        self.process.__exit__(kind, error, traceback)
        CLEAN_UPS.remove(self.process.kill)

    def answer(self) -> Any:
        assert self.process.stdout is not None
        try:
            return json.loads(self.process.stdout.readline())
        except ValueError:
            raise SetrError(self.failure) from None

    def turn(self) -> float:
        """The seconds that a run takes, over a turn of some."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise SetrError(self.failure) from None
        return self.answer()


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def measure(
    comparison: Comparison, script: Path, rounds: int, turn: float, mmseg_python: str | None = None
) -> dict[str, Any]:
    """What a comparison comes to: for each code its `seconds` (median, minimum and maximum over the rounds) and the
    `memory` of its first run in bytes, above what was in use; for each reference how many times as fast ours is, with
    the ratios taken within the rounds, and how many times as much memory it needs; and the `facts`.

    Raises [`SetrError`] if a code fails; mmsegmentation is left out without a Python of its own.
    """
    names = [OURS, *(name for name in comparison.references if name != MMSEG or mmseg_python is not None)]
    facts = comparison.facts()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory: dict[str, int | None] = {}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(script, comparison, name, turn, mmseg_python)) for name in names}
        # The one that may be missing first.
        for name, worker in reversed(workers.items()):
            memory[name] = worker.answer()["memory"]
        for _ in range(rounds):
            for name, worker in workers.items():
                seconds[name].append(worker.turn())
    work = {name: comparison.work.get(name, 1.0) for name in names}
    references = {}
    for name in names[1:]:
        speed = [
            theirs / ours * work[OURS] / work[name] for ours, theirs in zip(seconds[OURS], seconds[name], strict=True)
        ]
        ours, theirs = memory[OURS], memory[name]
        references[name] = {
            "speed": spread(speed),
            "memory": None if ours is None or theirs is None else theirs / max(ours, 1),
        }
    return {
        "title": comparison.title,
        "setting": comparison.setting,
        "codes": {name: {"seconds": spread(seconds[name]), "memory": memory[name]} for name in names},
        "references": references,
        "facts": facts,
    }
