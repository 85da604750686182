"""`setr-hf predict` on thousands of photos: its memory stays what it was, and killed again and again, it ends as a run
that was not.
"""

import filecmp
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from many_photos import write_photos
from model_folders import NAMES, save_model
from paths import SCRIPTS

from setr_hf.inference.output_folder import RECORDS_FILE, RESULTS, SETTINGS_FILE, read_records


NUM_PHOTOS = 5000
NUM_KILLS = 20
# Of resident memory, from the first tenth of the photos to the last.
MOST_MEGABYTES_MORE = 8


def start(inputs: Path, output: Path) -> subprocess.Popen:
    command = [sys.executable, SCRIPTS / "predict.py", inputs / "photos", "--model", inputs / "model"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    streams = {name: output.with_suffix(f".{name}").open("w") for name in ("stdout", "stderr")}
    return subprocess.Popen([*command, "--output", output], env=environment, **streams)


def num_done(output: Path) -> int:
    path = output / RECORDS_FILE
    return path.read_bytes().count(b'"state": {') if path.exists() else 0


def check_end(process: subprocess.Popen, output: Path, bad: list[str]):
    """It says which photos were bad, each once, and has written the results of all others, and nothing else."""
    assert process.wait() == 1
    errors = output.with_suffix(".stderr").read_text().splitlines()
    skipped = [line.split()[1] for line in errors if line.startswith("skipped ")]
    assert [Path(path).name for path in skipped] == bad
    assert f"{NUM_PHOTOS - len(bad)} of {NUM_PHOTOS} photos" in output.with_suffix(".stdout").read_text()
    good = {f"photo-{index:05}.jpg" for index in range(NUM_PHOTOS)} - set(bad)
    expected = {f"{Path(name).stem}{end}" for name in good for end in RESULTS}
    assert {path.name for path in output.iterdir()} == {*expected, RECORDS_FILE, SETTINGS_FILE}
    assert num_done(output) == len(good)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    save_model(folder / "model", NAMES)
    return folder, write_photos(folder / "photos", NUM_PHOTOS, bad_share=0.01)


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    """The results of a run, and the most megabytes that it had in memory while each tenth of them was written."""
    folder, bad = inputs
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    process = start(folder, output)
    most = [0.0] * 10
    while (number := num_done(output)) < NUM_PHOTOS - len(bad) and process.poll() is None:
        tenth = 10 * number // NUM_PHOTOS
        most[tenth] = max(most[tenth], psutil.Process(process.pid).memory_info().rss / 1e6)
        time.sleep(0.1)
    check_end(process, output, bad)
    return output, most


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_photos(undisturbed):
    _, most = undisturbed
    print("photos done   MB")
    for tenth, megabytes in enumerate(most, start=1):
        print(f"{tenth * NUM_PHOTOS // 10:>11}  {megabytes:.0f}")
    assert most[9] - most[0] < MOST_MEGABYTES_MORE


@pytest.mark.long
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(inputs, undisturbed, tmp_path):
    folder, bad = inputs
    output, num_good = tmp_path / "out", NUM_PHOTOS - len(bad)
    chance = random.Random(0)
    written = {}
    for kill in range(NUM_KILLS):
        number, delay = 0, chance.uniform(0, 10)  # While it starts, or soon after.
        if kill % 4:
            number, delay = int((kill + chance.random()) / NUM_KILLS * num_good), chance.uniform(0, 0.05)
        process = start(folder, output)
        while process.poll() is None and num_done(output) < number:
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        for name, record in read_records(output).items():
            if record["state"]:
                written.setdefault(name, (output / f"{name}.png").stat().st_mtime_ns)
    check_end(start(folder, output), output, bad)
    assert 0 < len(written) < num_good
    assert {name: (output / f"{name}.png").stat().st_mtime_ns for name in written} == written, "done a second time"
    for path in undisturbed[0].iterdir():
        assert path.name == RECORDS_FILE or filecmp.cmp(path, output / path.name, shallow=False), path.name
