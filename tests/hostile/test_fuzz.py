"""Inputs that coverage guides, through the readers of files of any origin; see `fuzz.py`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest


RUNS = {
    "names_file": 10_000,
    "recipe": 4_000,
    "card": 4_000,
    "config": 2_000,
    "checkpoint": 6_000,
    "pickle": 6_000,
    "safetensors": 6_000,
    "npz": 4_000,
}


@pytest.mark.hostile
@pytest.mark.parametrize("target", RUNS)
def test_inputs_guided_by_coverage_end_well(target, tmp_path, report_endings):
    pytest.importorskip("atheris", reason="atheris, which `make test-hostile` installs on Linux, is not here")
    script = Path(__file__).with_name("fuzz.py")
    paths = [str(script.parent), str(script.parents[1] / "references"), *sys.path]
    run = subprocess.run(
        [sys.executable, str(script), target, str(RUNS[target])],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(filter(None, paths)), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    output = run.stdout + run.stderr
    assert run.returncode == 0, output[-5000:]
    endings = json.loads(re.search(r"endings: (.*)", output).group(1))
    assert sum(endings.values()) == RUNS[target]
    report_endings(f"fuzz {target}", endings)
