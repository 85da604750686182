"""The frame of the hostile suite: families of inputs that nobody should have to meet, tried one by one.

A family is a function that makes one input from a seeded `random.Random` in an empty folder, and says what to try:

    @family(count=500)
    def names_files(random, folder):
        path = folder / "labels.json"
        path.write_bytes(random.randbytes(20))
        return Attempt("random bytes", lambda: read_names_file(path), check=is_label_set)

Put it into a file `families_*.py` of this folder; nothing else is needed. `count` is its number of inputs in
`make test-hostile`; `make test` tries a fiftieth of them. What is tried must end in one of two ways, in bounded time
and memory: with a result that `check` accepts, or with an error of a type in `refusals` that says in one line what
is wrong. Then `absent` must not exist, and nothing half-written may be left anywhere in the folder.

An input that fails is named by family and number: `replay("names_files", 217)` tries it again.
"""

import gc
import os
import random
import resource
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from setr_hf.cli import message_of
from setr_hf.errors import SetrError


SECONDS = 60  # for one input; nothing takes more than a few, but machines of tests are loaded
MEBIBYTES = 600  # of resident memory, more than before
LONGEST_MESSAGE = 5000
SAMPLE = 50
FAMILIES: dict[str, "Family"] = {}


def accept(result: Any) -> None:
    """The check of a result that cannot be wrong."""


@dataclass(frozen=True)
class Attempt:
    """What is tried.

    Args:
        what (`str`): The kind of input, for the report of a failure.
        run (`Callable`): Calls the public entry.
        check (`Callable`): Takes what `run` returns, and asserts that it is right.
        refusals (`tuple` of types): The errors that refuse an input; `SetrError` unless the entry belongs to `model/`
            or documents another.
        absent (`Path`, *optional*): What must not exist after a refusal.
    """

    what: str
    run: Callable[[], Any]
    check: Callable[[Any], None] = accept
    refusals: tuple[type[Exception], ...] = (SetrError,)
    absent: Path | None = None


@dataclass(frozen=True)
class Family:
    """`make(random, folder)` returns an [`Attempt`]; see [`family`]."""

    make: Callable[[random.Random, Path], Attempt]
    count: int
    mebibytes: int


def family(count: int, mebibytes: int = MEBIBYTES) -> Callable:
    """Registers a function as a family of `count` inputs that may each take so much memory."""

    def register(make: Callable[[random.Random, Path], Attempt]) -> Callable:
        assert make.__name__ not in FAMILIES, f"there are two families {make.__name__}"
        FAMILIES[make.__name__] = Family(make, count, mebibytes)
        return make

    return register


class TooSlow(Exception):
    """An input has taken `SECONDS`."""


def stop(*_: object) -> None:
    raise TooSlow(f"not done after {SECONDS} s")


@contextmanager
def time_limit() -> Any:
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def reset_peak() -> int:
    """Forgets the peak of resident memory, if the system can, and returns the present peak in bytes."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 2**10
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10


def check_refusal(error: Exception, absent: Path | None = None) -> None:
    """Asserts that an error says in one line what is wrong, and that `absent` does not exist."""
    line = str(error) if isinstance(error, SetrError) else message_of(error)
    assert line.strip(), f"{type(error).__name__} says nothing"
    assert len(line.splitlines()) == 1 and "Traceback" not in line, f"not one line: {line!r}"
    assert len(line) < LONGEST_MESSAGE, f"{len(line)} characters: {line[:500]}"
    assert absent is None or not os.path.lexists(absent), f"{absent} was left behind"


def try_one(name: str, number: int) -> str:
    """Tries one input and returns how it ended: "result" or "refused". Raises if it ended in any other way."""
    entry = FAMILIES[name]
    chance = random.Random(f"{name}:{number}")
    torch.manual_seed(number)
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        attempt = entry.make(chance, Path(folder))
        before = reset_peak()
        try:
            with time_limit():
                try:
                    attempt.check(attempt.run())
                    ending = "result"
                except attempt.refusals as error:
                    check_refusal(error, attempt.absent)
                    ending = "refused"
            grown = (peak() - before) / 2**20
            assert grown < entry.mebibytes, f"{grown:.0f} MiB of memory"
            left = [path for path in Path(folder).rglob("*") if ".unfinished" in path.name]
            assert not left, f"{left} was left half-written"
        except Exception as error:
            error.add_note(f"input: {attempt.what}") if hasattr(error, "add_note") else None
            raise
    return ending


def replay(name: str, number: int) -> str:
    """[`try_one`], for a failure that was reported."""
    return try_one(name, number)


def try_family(name: str, numbers: range, most_failures: int = 5) -> Counter[str]:
    """Tries inputs of a family and counts how they ended. Raises `AssertionError` with each failure's traceback."""
    endings: Counter[str] = Counter()
    failures = []
    for number in numbers:
        try:
            endings[try_one(name, number)] += 1
        except Exception:
            failures.append(f"replay({name!r}, {number})\n{traceback.format_exc(limit=-4)}")
            if len(failures) == most_failures:
                break
    gc.collect()
    assert not failures, f"{len(failures)} inputs of {name}:\n\n" + "\n\n".join(failures)
    return endings


def sample_of(count: int) -> range:
    """The numbers of the inputs of a family that `make test` tries."""
    return range(max(1, count // SAMPLE))


def chunks(count: int, size: int = 500) -> list[range]:
    """All inputs of a family in parts, which run side by side."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
