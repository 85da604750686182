"""Jobs that Ctrl-C or SIGTERM ends: at a random moment of each, and at some that are known."""

import os
import signal
import subprocess
import sys
import time

import pytest
from interrupted_jobs import JOBS, check_interrupted, interrupt, make_inputs
from paths import SCRIPTS

from setr_hf.training.output_folder import last_complete_checkpoint


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


def until_a_checkpoint(folder):
    while last_complete_checkpoint(folder / "out") is None:
        time.sleep(0.05)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_ends_with_one_line_whenever_it_is_interrupted(inputs, tmp_path, job):
    check_interrupted(job, 0, inputs, tmp_path, most_seconds=12)


def code(text):
    return [sys.executable, "-c", f"import time\nfrom setr_hf_ending import *\nend_at_signals()\n{text}"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("time.sleep(60)", "interrupted"),
        ("say_when_interrupted(lambda: 'go on')\ntime.sleep(60)", "interrupted: go on"),
        ("say_when_interrupted(lambda: 1 / 0)\ntime.sleep(60)", "interrupted"),
        # Where KeyboardInterrupt would be lost: in what swallows everything, and in a destructor.
        ("while True:\n try: time.sleep(60)\n except: pass", "interrupted"),
        ("class D:\n def __del__(self): time.sleep(60)\nD()\ntime.sleep(60)", "interrupted"),
        # Threads that do not end by themselves, and functions that are called at the end.
        ("import threading\nthreading.Thread(target=time.sleep, args=(60,)).start()", "interrupted"),
        ("atexit.register(time.sleep, 60)", "interrupted"),
        # Above a line that is not complete.
        ("from tqdm import tqdm\nfor _ in tqdm(range(2)): time.sleep(60)", "interrupted"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_any_code_ends_at_once(tmp_path, text, line, number):
    status, lines = interrupt(code(text), tmp_path, lambda folder: time.sleep(0.5), number, to_all=True)
    assert status == 128 + number
    assert lines[-1].strip() == line and "Traceback" not in "".join(lines)


@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.long)])
def test_workers_of_a_data_loader_end_with_the_job_and_say_nothing(inputs, tmp_path, method):
    (tmp_path / "data").symlink_to(inputs / "data")
    command = [sys.executable, str(SCRIPTS / "train.py"), *JOBS["train"], "--max-steps", "4000"]
    command += ["--dataloader-multiprocessing-context", method, "--dataloader-persistent-workers"]
    status, lines = interrupt(command, tmp_path, until_a_checkpoint, signal.SIGINT, to_all=True)
    assert status == 130
    assert lines[-1].strip().startswith("interrupted: --resume-from-checkpoint True goes on from out/checkpoint-")
    assert "Traceback" not in "".join(lines)


def test_a_second_signal_ends_a_job_that_is_cleaning_up(tmp_path):
    process = subprocess.Popen(
        code("CLEAN_UPS.append(lambda: time.sleep(60))\nopen('begun', 'w').close()\ntime.sleep(60)"),
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "interrupted\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert (process.wait(20), process.stderr.read()) == (130, "")


def test_what_is_being_written_is_deleted(tmp_path):
    text = "from pathlib import Path\nfrom setr_hf.cli import run_job\nfrom setr_hf.files import *\n"
    text += "def job():\n with folder_lock(Path('out')), whole_file('out/a.txt') as a, whole_folder('new') as new:\n"
    text += "  a.touch(); (new / 'part').touch()\n  with temporary_folder() as other:\n"
    text += "   Path('begun').write_text(str(other))\n   time.sleep(60)\nrun_job(job)"
    process = subprocess.Popen(code(text), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "begun").exists() or not (tmp_path / "begun").read_text():
        time.sleep(0.01)
    assert len([*tmp_path.rglob("*.unfinished*")]) == 2 and (tmp_path / "out/_running.lock").exists()
    process.send_signal(signal.SIGINT)
    assert (process.wait(20), process.stderr.read()) == (130, "interrupted\n")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["begun", "out"]
    assert not os.path.exists((tmp_path / "begun").read_text())


@pytest.mark.parametrize(
    "launcher",
    [
        ["torch.distributed.run"],
        pytest.param(["accelerate.commands.launch", "--multi_gpu"], marks=pytest.mark.long),
    ],
)
def test_launchers_end_with_the_line_too(inputs, tmp_path, launcher):
    """Two processes are interrupted when there is a checkpoint; afterwards their folder holds another run."""
    (tmp_path / "data").symlink_to(inputs / "data")
    count = "--num_processes" if "accelerate.commands.launch" in launcher else "--nproc_per_node"
    script = [str(SCRIPTS / "train.py"), *JOBS["train"], "--max-steps", "4000"]
    command = [sys.executable, "-m", *launcher, count, "2", *script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    options = {
        "cwd": tmp_path,
        "env": environment,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    process = subprocess.Popen(command, **options)
    until_a_checkpoint(tmp_path)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    last = errors.splitlines()[-1]
    assert process.returncode == 1
    assert last.startswith("interrupted: --resume-from-checkpoint True goes on from out/checkpoint-")
    assert errors.count("interrupted: ") == 1

    done = subprocess.run(command, **options)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: out holds checkpoint-")
    assert done.stderr.count("error: ") == 1
