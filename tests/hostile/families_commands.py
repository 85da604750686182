"""Command lines of every job with values that no option should have: each ends well, or in one line that says why."""

import contextlib
import io
import json
import os
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from data_folders import write_data
from hostile import Attempt, family
from small_models import small_model, small_processor

from setr_hf import SetrForSemanticSegmentation, add_lora
from setr_hf.checkpoints.export import write_public_checkpoint
from setr_hf.cli import run_job
from setr_hf.errors import SetrError
from setr_hf.training.adapters import save_adapter
from setr_hf_cli import find_scripts, load_script


VALUES = [
    "",
    " ",
    "-",
    "--",
    "-1",
    "0",
    "1",
    "2",
    "3",
    "64",
    "255",
    "2147483648",
    "99999999999999999999",
    "0.5",
    "1e-30",
]
VALUES += [
    "1e309",
    "nan",
    "inf",
    "-inf",
    "none",
    "None",
    "true",
    "False",
    "auto",
    "cpu",
    "cuda:99",
    "banana",
    "validation",
]
VALUES += [
    "nowhere/at/all",
    ".",
    "data",
    "model",
    "model/config.json",
    "data/labels.json",
    "broken.json",
    "pipe",
    "a\x00b",
]
VALUES += [
    "=cmd|' /C calc'!A0",
    "\x1b[31mred",
    "line\nline",
    "天空",
    "x" * 3000,
    "*",
    "**",
    "data/[",
    "data/**/../*",
    "%s",
    "{}",
    "[]",
    "{",
    "null",
    "{{}}",
]
VALUES += [
    '{"a": NaN}',
    '{"hidden_size": 1e9}',
    '{"hidden_size": 1000000000}',
    '{"num_hidden_layers": -1}',
    "[" * 5000,
]
VALUES += [
    '{"num_labels": 0}',
    '{"image_size": [1, 2, 3]}',
    '{"power": 0}',
    '{"min_lr": "low"}',
    "polynomial",
    "bf16",
    "steps",
]
# What would write elsewhere, use the network, start other programs or take minutes.
LEFT_ALONE = {
    "--output-dir",
    "--output",
    "--logging-dir",
    "--push-to-hub",
    "--hub-model-id",
    "--hub-token",
    "--help",
    "--sign",
}
LEFT_ALONE |= {
    "--report-to",
    "--trackio-space-id",
    "--torch-compile",
    "--torch-compile-backend",
    "--dry-run",
    "--threads",
}
NETWORK = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
NETWORK |= {"decoder_type": "naive", "decoder_hidden_size": 8, "auxiliary_out_indices": [1]}
TRAIN = ["--dataset", "data", "--config", json.dumps(NETWORK), "--crop-size", "32", "--max-steps", "1", "--use-cpu"]
TRAIN += ["--report-to", "none", "--num-prediction-pictures", "0", "--disable-tqdm", "true", "--output-dir", "out"]
DATA = ["--dataset", "data", "--output", "out"]
PROTOCOL = ["--protocol", "multi", "--scales", "1", "--dtype", "float32", "--batch-size", "2"]
PROTOCOL += ["--window-batch-size", "2"]
CONFIDENCE = ["--confidence", "--ignore-below", "0.5"]
COMMANDS = {
    "train": [*TRAIN, "--dry-run"],
    "predict": ["data/images/val", "data/**/*.png", "--model", "model", "--output", "out", *PROTOCOL, *CONFIDENCE],
    "evaluate": ["--model", "model", *DATA],
    "compare": ["model", "model", *DATA],
    "calibrate": ["model", "--dataset", "data"],
    "convert": ["public.pth", "out"],
    "merge": ["adapter", "out", "--base", "model"],
    "prepare": ["cityscapes", "data", "out"],
    "publish": ["model", "me/model", "--dry-run"],
    "verify": ["model"],
    "doctor": ["data"],
    "recipes": ["setr-mla-small-camvid"],
}


@cache
def inputs() -> TemporaryDirectory:
    """`data`, two photos in each split with annotations; `model`, `public.pth`, `adapter`; and files that are none."""
    folder = TemporaryDirectory(prefix="hostile-inputs-")
    root = Path(folder.name)
    write_data(root / "data", 2, 32, 40, ["sky", "tree", "road"])
    (root / "broken.json").write_text('{"id2label": {')
    os.mkfifo(root / "pipe")
    small_model().save_pretrained(root / "model")
    small_processor().save_pretrained(root / "model")
    write_public_checkpoint(root / "model", root / "public.pth", "mmseg")
    save_adapter(add_lora(SetrForSemanticSegmentation.from_pretrained(root / "model"), rank=1), root / "adapter")
    return folder


@cache
def job(name):
    return load_script(find_scripts()[name]).main


def call(name, argv):
    """Exit status and what is printed to stderr; as [`run_job`], of which nothing may escape but argparse's exit."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = run_job(lambda: job(name)(argv))
        except SystemExit as exit:
            status = exit.code or 0
    return status, out.getvalue(), err.getvalue()


@cache
def options(name):
    _, text, _ = call(name, ["--help"])
    return sorted(set(re.findall(r"--[a-z][a-z0-9_-]+", text)) - LEFT_ALONE)


def with_hostile_values(random, name, argv):
    argv = list(argv)
    for _ in range(random.randint(1, 3)):
        kind = random.randrange(8)
        if kind == 0:  # The value of an option that is there, or a place.
            at = random.randrange(len(argv))
            if argv[at] not in {*LEFT_ALONE, "out"} and argv[max(0, at - 1)] not in LEFT_ALONE:
                argv[at] = random.choice(VALUES)
        elif kind == 1:
            argv.insert(random.randrange(len(argv) + 1), random.choice([*VALUES, "--nothing", "-x"]))
        elif options(name):
            argv += [random.choice(options(name)), *random.choices(VALUES, k=random.choice([0, 1, 1, 1, 1, 2]))]
    return argv


@family(count=1_800, mebibytes=2500)
def command_lines(random, folder):
    name = random.choice([*COMMANDS, "train", "train"])
    argv = with_hostile_values(random, name, COMMANDS[name])
    if name == "train" and random.random() < 0.05:
        argv.remove("--dry-run") if "--dry-run" in argv else None
    root = Path(inputs().name)
    for path in root.iterdir():
        (folder / path.name).symlink_to(path)

    def run():
        before, threads = os.getcwd(), torch.get_num_threads()
        os.chdir(folder)
        try:
            status, _, err = call(name, argv)
        finally:
            os.chdir(before)
            torch.set_num_threads(threads)
        assert "Traceback" not in err, err
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert status in (0, 1, 2) and len(errors) == (status == 2), f"{status}: {err}"
        if status == 2:
            raise SetrError(errors[0])

    return Attempt(f"{name} {argv}", run)
