"""An evaluation of thousands of photos, some of them damaged, that is killed again and again."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from many_photos import write_photos
from model_folders import NAMES, save_model
from paths import SCRIPTS

from setr_hf.files import complete_lines


NUM_PHOTOS, BAD_SHARE = 5000, 0.01
NUM_KILLS, NUM_KILLS_IN_REPORT = 20, 3
# By how much resident memory may grow from the first to the last thousand photos.
MOST_GROWTH = 30 * 2**20


def start(folder, output):
    options = ["--model", "model", "--dataset", "data", "--output", output, "--threads", "1", "--skip-bad-samples"]
    with open(folder / f"{output}.stderr", "w") as stderr:
        return psutil.Popen(
            [sys.executable, str(SCRIPTS / "evaluate.py"), *options],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )


def records(folder):
    file = folder / "records/process-0.jsonl"
    return list(complete_lines(file)) if file.exists() else []


def wait_for_records(process, folder, count):
    while process.poll() is None and len(records(folder)) < count:
        time.sleep(0.02)


def run_to_the_end(folder, output):
    """Returns how many records there were and the resident memory in bytes, about once in a hundred photos."""
    process, curve = start(folder, output), []
    for count in range(0, NUM_PHOTOS, 100):
        wait_for_records(process, folder / output, count)
        if process.poll() is None:
            curve.append((len(records(folder / output)), process.memory_info().rss))
    assert process.wait() == 0, (folder / f"{output}.stderr").read_text()
    return curve


@pytest.mark.long
def test_killed_at_random_moments_an_evaluation_loses_no_photo_counts_none_twice_and_names_each_bad_one(tmp_path):
    bad = [Path(name).stem for name in write_photos(tmp_path / "data", NUM_PHOTOS, BAD_SHARE, annotations=True)]
    save_model(tmp_path / "model", NAMES)
    curve = run_to_the_end(tmp_path, "undisturbed")
    print("records and resident MB:", ", ".join(f"{count} {rss / 2**20:.0f}" for count, rss in curve[1::4]))
    memory = {count // 1000: rss for count, rss in reversed(curve[1:])}
    assert max(memory.values()) - memory[0] < MOST_GROWTH

    chance = random.Random(0)
    num_good = NUM_PHOTOS - len(bad)
    moments = sorted(chance.sample(range(num_good), NUM_KILLS - NUM_KILLS_IN_REPORT))
    delays = [chance.uniform(0, 0.05) for _ in moments] + [chance.uniform(0, 1) for _ in range(NUM_KILLS_IN_REPORT)]
    earlier = []
    for moment, delay in zip(moments + [num_good] * NUM_KILLS_IN_REPORT, delays):
        process = start(tmp_path, "killed")
        wait_for_records(process, tmp_path / "killed", moment)
        time.sleep(delay)
        process.kill()
        assert process.wait() == -9
        now = records(tmp_path / "killed")
        assert now[: len(earlier)] == earlier, "what was complete has changed"
        earlier = now
    run_to_the_end(tmp_path, "killed")

    for output in ("undisturbed", "killed"):
        indices = [json.loads(line)["index"] for line in records(tmp_path / output)]
        names = [f"photo-{index:05}" for index in indices]
        assert len(set(names)) == len(names) == num_good and not set(names).intersection(bad)
        results = json.loads((tmp_path / output / "results.json").read_text())
        assert results["num_images"] == num_good
        assert [sample["name"] for sample in results["bad_samples"]] == bad
        lines = [line for line in (tmp_path / f"{output}.stderr").read_text().splitlines() if "bad sample: " in line]
        assert len(lines) == len(bad) and all(name in line for name, line in zip(bad, lines))
    for file in ("results.json", "confusion_matrix.npy"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "undisturbed" / file).read_bytes()
    matrix = np.load(tmp_path / "killed/confusion_matrix.npy")
    assert matrix.sum() == results["num_pixels"] and (matrix.sum(axis=0) > 0).sum() > 1
