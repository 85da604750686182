"""Conversion and preparation that are killed at changes on the disk, or fill it: what they write is whole or absent.

`tests/training/test_kill_points.py` and `tests/training/test_full_disk.py` are the same for training.
"""

import shutil
from pathlib import Path

import pytest
from distributed_training import kill_at_change, start
from interrupted_jobs import make_inputs
from paths import SCRIPTS
from small_disk import small_disk

from setr_hf.errors import SetrError
from setr_hf.files import size_of
from setr_hf_cli import load_script


# What each job reads and writes, in a folder of its own.
JOBS = {
    "convert back": ["convert", "model", "out/result.pth", "--to", "mmseg"],
    "convert": ["convert", "public.pth", "out/result", "--dataset", "data/labels.json"],
    "prepare": ["prepare", "cityscapes", "cityscapes", "out/result"],
}

MOST_KILLS = 4


def arguments(job: str, inputs: Path, output: Path) -> list[str]:
    _, *argv = JOBS[job]
    places = {name: str(inputs / name) for name in ("model", "public.pth", "data/labels.json")}
    if job == "prepare":
        return [argv[0], str(inputs / argv[1]), str(output)]
    return [str(output) if word.startswith("out/") else places.get(word, word) for word in argv]


def run_script(job: str, inputs: Path, output: Path, killed_at: int | None = None):
    if killed_at is not None:
        kill_at_change(killed_at, output.parent)
    load_script(SCRIPTS / f"{JOBS[job][0]}.py").main(arguments(job, inputs, output))


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    run_script("convert back", folder, folder / "public.pth")
    return folder


@pytest.mark.parametrize("job", JOBS)
def test_a_killed_job_leaves_nothing_or_all_and_runs_again(inputs, tmp_path, job):
    name = Path(next(word for word in JOBS[job] if word.startswith("out/"))).name
    whole = tmp_path / "whole" / name
    whole.parent.mkdir()
    process = start(run_script, job, inputs, whole, 10**9)
    process.join()
    assert process.exitcode == 0
    changes = len((tmp_path / "whole.log").read_text().splitlines())
    assert changes >= 2
    step = -(-changes // MOST_KILLS)
    for number in {*range(1, changes, step), changes}:
        output = tmp_path / str(number) / name
        output.parent.mkdir()
        killed = start(run_script, job, inputs, output, number)
        killed.join()
        assert killed.exitcode == -9
        if not output.exists():
            run_script(job, inputs, output)
        assert contents(output) == contents(whole)
        assert [path.name for path in output.parent.iterdir()] == [name]
        shutil.rmtree(output.parent)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_that_fills_the_disk_says_so_and_leaves_nothing(inputs, tmp_path, job):
    name = Path(next(word for word in JOBS[job] if word.startswith("out/"))).name
    whole = tmp_path / "whole" / name
    run_script(job, inputs, whole)
    for part in range(1, 8):
        with small_disk(tmp_path / f"disk-{part}", max(1, part * size_of(whole) // 8 // 4096) * 4096) as disk:
            with pytest.raises(SetrError, match=r"is not written: .* (are|is) (missing|needed)"):
                run_script(job, inputs, disk / "out" / name)
            assert not [path for path in disk.rglob("*") if path.is_file()]
