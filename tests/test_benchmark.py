"""The benchmark job, on a few scenes; with MMSEG_PYTHON beside mmsegmentation."""

import json
import os
import subprocess
import sys

import pytest
from paths import ROOT

from setr_hf.data.scenes import CLASSES, make_scenes


@pytest.fixture
def benchmark(tmp_path):
    """A function that runs the benchmark of augmentation on three scenes and returns the finished process."""
    scenes = make_scenes(3, 0).rows
    for kind, suffix, column in (("images", "jpg", "image"), ("annotations", "png", "annotation")):
        (tmp_path / kind / "train").mkdir(parents=True)
        for row in scenes:
            row[column].save(tmp_path / kind / "train" / f"{row['name']}.{suffix}")
    (tmp_path / "labels.json").write_text(json.dumps({"id2label": dict(enumerate(CLASSES))}))

    def run(*options):
        command = [sys.executable, "scripts/benchmark.py", "augmentation", "--dataset", tmp_path, *options]
        sizes = ["--crop-size", "64", "80", "--size", "96", "120", "--rounds", "2", "--passes", "1"]
        return subprocess.run([*map(str, command), *sizes], capture_output=True, text=True, cwd=ROOT)

    return run


def test_without_mmsegmentation_only_ours_is_measured(benchmark):
    result = benchmark()
    assert result.returncode == 0, result.stderr
    assert "3 photos, crops of 64×80" in result.stdout
    assert "mmsegmentation is not measured" in result.stdout
    rates = [line.split()[-3:] for line in result.stdout.splitlines() if line.startswith("setr-hf, images/s")]
    assert len(rates) == 2
    for median, least, most in rates:
        assert 0 < float(least) <= float(median) <= float(most)
    assert "ratio" not in result.stdout


def test_with_mmsegmentation_there_is_a_ratio(benchmark):
    python = os.environ.get("MMSEG_PYTHON")
    if not python:
        pytest.skip("set MMSEG_PYTHON to a Python that has mmsegmentation 1.2.2 to run this test")
    result = benchmark("--mmseg-python", python)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("mmsegmentation, images/s") == result.stdout.count("ratio") == 2


def test_a_python_without_mmsegmentation_is_named(benchmark, tmp_path):
    # Isolated from site-packages, it finds no module of any library.
    python = tmp_path / "bare-python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    python.chmod(0o755)
    result = benchmark("--mmseg-python", python)
    assert result.returncode == 2
    assert f"error: {python} does not run mmsegmentation 1.2.2" in result.stderr


def test_a_python_that_is_not_there_is_named(benchmark):
    result = benchmark("--mmseg-python", "/no/python")
    assert (result.returncode, result.stderr) == (2, "error: --mmseg-python /no/python is not a program here\n")
