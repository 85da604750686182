"""Jobs on small data, and what must be true after a signal has ended one of them, whenever it came."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from data_folders import write_data
from model_folders import NAMES, save_model
from paths import SCRIPTS
from PIL import Image


SMALL = '{"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64, '
SMALL += '"decoder_type": "naive", "decoder_hidden_size": 16}'
TRAIN = ["--config", SMALL, "--crop-size", "64", "--max-steps", "40", "--save-steps", "4", "--save-total-limit", "2"]
TRAIN += ["--per-device-train-batch-size", "2", "--use-cpu", "--report-to", "none", "--dataloader-num-workers", "2"]
NUM_PHOTOS = 24
# The arguments of each job, in a folder made by `make_inputs`.
JOBS = {
    "train": [*TRAIN, "--dataset", "data", "--output-dir", "out"],
    "predict": ["data/images/val", "--model", "model", "--output", "out"],
    "evaluate": ["--model", "model", "--dataset", "data", "--split", "validation", "--output", "out"],
    "convert": ["model", "out/back.pth", "--to", "mmseg"],
    "prepare": ["cityscapes", "cityscapes", "out"],
    "demo": ["--dataset", "data", "--max-steps", "10", "--output", "out"],
}


def make_inputs(folder: Path):
    """`data`, a folder of images and annotations; `model`; and `cityscapes`, with its folders and names."""
    generator = np.random.default_rng(0)
    write_data(folder / "data", NUM_PHOTOS, 96, 128, NAMES)
    for split in ("train", "val"):
        for index in range(NUM_PHOTOS):
            pixels = generator.integers(0, 256, (96, 128, 3), np.uint8)
            stem = f"{split}/ulm/ulm_{index:06d}_000019"
            for path in (f"leftImg8bit/{stem}_leftImg8bit.png", f"gtFine/{stem}_gtFine_labelIds.png"):
                (folder / "cityscapes" / path).parent.mkdir(parents=True, exist_ok=True)
                image = pixels if path.startswith("left") else pixels[..., 0] % 34
                Image.fromarray(image).save(folder / "cityscapes" / path)
    save_model(folder / "model", NAMES)


def catches(process: subprocess.Popen, number: int) -> bool:
    """Whether a process has a handler of this signal by now."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def interrupt(
    command: list[str], folder: Path, wait: Callable[[Path], None], number: int, to_all: bool
) -> tuple[int, list[str]]:
    """
    Runs a command in `folder`, and sends it a signal when it can handle signals and `wait(folder)` has returned:
    `to_all` its processes, as a terminal does, or to the first. Returns its exit status and what it printed to stderr.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "stderr").open("w+") as stderr:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
        )
        while process.poll() is None and not catches(process, signal.SIGTERM):
            time.sleep(0.002)
        wait(folder)
        if process.poll() is None:
            if to_all:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        status = process.wait(60)
        gone = time.monotonic() + 5
        while others := [each for each in psutil.process_iter() if is_in_group(each, process.pid)]:
            assert time.monotonic() < gone, f"still there: {others}"
            time.sleep(0.05)
        stderr.seek(0)
        return status, stderr.read().splitlines()


def is_in_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def check_interrupted(job: str, seed: int, inputs: Path, folder: Path, most_seconds: float) -> str:
    """Interrupts a job at a random moment, checks how it ends, and returns its last line."""
    chance = random.Random(f"{job} {seed}")
    delay, number = chance.uniform(0, most_seconds), chance.choice([signal.SIGINT, signal.SIGTERM])
    for name in ("data", "model", "cityscapes"):
        (folder / name).symlink_to(inputs / name)
    start = chance.choice([[str(SCRIPTS / f"{job}.py")], ["-m", "setr_hf_cli", job]])
    command = [sys.executable, *start, *JOBS[job]]
    status, lines = interrupt(
        command, folder, lambda folder: time.sleep(delay), number, to_all=number == signal.SIGINT
    )
    text = "\n".join(lines)
    assert "Traceback" not in text and "Exception ignored" not in text, text
    assert not [*folder.rglob("*.unfinished*"), *folder.rglob("_running.lock")]
    if status == 0:  # It was quicker.
        return ""
    assert status == 128 + number, text
    assert lines[-1].split(":")[0].strip() == "interrupted" and text.count("interrupted") == 1, text
    return lines[-1].strip()
