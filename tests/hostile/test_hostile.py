"""Hostile inputs end in a correct result or in one clear line, in bounded time and memory; see `hostile.py`."""

import importlib
from pathlib import Path

import pytest
from hostile import FAMILIES, chunks, sample_of, try_family


for path in sorted(Path(__file__).parent.glob("families_*.py")):
    importlib.import_module(path.stem)

LARGE_RUN = [(name, part) for name, entry in sorted(FAMILIES.items()) for part in chunks(entry.count)]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_sample_of_hostile_inputs_ends_well(name, report_endings):
    report_endings(name, try_family(name, sample_of(FAMILIES[name].count)))


@pytest.mark.hostile
@pytest.mark.parametrize("name, part", LARGE_RUN, ids=[f"{name}-{part.start}" for name, part in LARGE_RUN])
def test_hostile_inputs_end_well(name, part, report_endings):
    report_endings(name, try_family(name, part))


def test_the_large_run_holds_twenty_thousand_inputs():
    assert sum(entry.count for entry in FAMILIES.values()) >= 20_000
