"""Several processes train and evaluate as one does with the same global batch: DDP and FSDP2 with gloo on the CPU."""

import json
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import torch
import transformers
from distributed_training import make_trainer, run, run_as_one_of_two, start
from packaging.version import Version
from paths import HELPERS
from safetensors.torch import load_file
from transformers import AutoModelForSemanticSegmentation

from setr_hf import SetrForSemanticSegmentation
from setr_hf.training.output_folder import is_complete, last_complete_checkpoint


# 3 steps are an epoch of 12 examples in batches of 4; 5 photos are evaluated, 2 at a time in each process.
FROZEN = {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 3, "freeze_batch_norm": True}
SHARDED = {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["SetrLayer"]}}
BATCHES = {
    "two each": {"per_device_train_batch_size": 2},
    "one each, accumulated": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
}


def history(folder):
    return json.loads((folder / "history.json").read_text())


def run_two(*args, fsdp=False, killed=False):
    """Two processes at once; with `killed` the first is killed, and then, as torchrun does it, the other."""
    with socket.socket() as server:
        server.bind(("localhost", 0))
        port = server.getsockname()[1]
    first, second = [start(run_as_one_of_two, rank, port, fsdp, *args) for rank in range(2)]
    first.join()
    if killed:
        second.kill()
    second.join()
    assert (first.exitcode == -signal.SIGKILL) if killed else (first.exitcode == second.exitcode == 0)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The run in one process."""
    folder = tmp_path_factory.mktemp("one")
    run(folder, FROZEN)
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Folders of runs in two processes that torchrun starts, by name."""
    folder = tmp_path_factory.mktemp("two")
    runs = [[str(folder / name), FROZEN | batch] for name, batch in BATCHES.items()]
    runs.append([str(folder / "own statistics"), FROZEN | BATCHES["two each"] | {"freeze_batch_norm": False}])
    runs.append([str(folder / "averaged"), FROZEN | BATCHES["one each, accumulated"] | {"ema": 0.5}])
    runs.append([str(folder / "adapters"), FROZEN | BATCHES["two each"] | {"lora": 2}])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = HELPERS / "distributed_training.py"
    done = subprocess.run([*command, str(script), json.dumps(runs)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def assert_same_run(folder, expected):
    """Losses to 1e-5 of theirs, all rates and scores, and each weight to 1e-6."""
    ours, theirs = history(folder), history(expected)
    assert [set(row) for row in ours] == [set(row) for row in theirs]
    for row, other in zip(ours, theirs):
        assert row == pytest.approx(other, rel=1e-5)
    weights, other_weights = load_file(folder / "model.safetensors"), load_file(expected / "model.safetensors")
    torch.testing.assert_close(weights, other_weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", BATCHES)
def test_two_processes_train_as_one(one_process, two_processes, batch):
    assert_same_run(two_processes / batch, one_process)


def test_two_processes_average_their_weights_as_one(two_processes, tmp_path):
    run(tmp_path, FROZEN | {"ema": 0.5})
    assert_same_run(two_processes / "averaged", tmp_path)


def test_two_processes_train_adapters_as_one(two_processes, tmp_path):
    run(tmp_path, FROZEN | {"lora": 2})
    assert_same_run(two_processes / "adapters", tmp_path)
    adapters = [
        load_file(folder / "adapter/adapter_model.safetensors") for folder in (two_processes / "adapters", tmp_path)
    ]
    torch.testing.assert_close(*adapters, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", BATCHES)
def test_each_example_is_seen_exactly_once_in_an_epoch(two_processes, batch):
    lines = [(two_processes / batch / f"examples-{rank}.txt").read_text().splitlines() for rank in range(2)]
    assert [len(process) for process in lines] == [12, 12]
    assert sorted(lines[0] + lines[1]) == sorted(f"{epoch} {index}" for epoch in range(2) for index in range(12))


def test_what_is_evaluated_is_what_is_saved(two_processes, tmp_path):
    """Each process has BatchNorm statistics of its own; those of the first are saved, and evaluated by all."""
    folder = two_processes / "own statistics"
    trainer = make_trainer(tmp_path, {})
    trainer.model.load_state_dict(SetrForSemanticSegmentation.from_pretrained(folder).state_dict())
    assert trainer.evaluate()["eval_mean_iou"] == history(folder)[-1]["eval_mean_iou"]


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"),
    reason="Transformers 5.17 cannot load a checkpoint in several processes on the CPU (it maps tensors to cpu:0)",
)
def test_a_checkpoint_is_complete_only_with_the_files_of_all_processes(two_processes, tmp_path):
    """Killed when the first process is about to complete it, and resumed from the one before."""
    arguments = FROZEN | BATCHES["two each"] | {"save_strategy": "steps", "save_steps": 2}
    run_two(tmp_path, arguments, False, "checkpoint-4/trainer_state.json", killed=True)
    assert (tmp_path / "checkpoint-4" / "rng_state_1.pth").exists()
    assert not is_complete(tmp_path / "checkpoint-4")
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    run_two(tmp_path, arguments, True)
    assert history(tmp_path) == history(two_processes / "two each")
    weights = (two_processes / "two each" / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_fsdp2_trains_as_one_process_and_resumes(one_process, tmp_path):
    """Photos of different sizes are evaluated at the same time, in a different number of windows in each process."""
    arguments = FROZEN | BATCHES["two each"] | SHARDED | {"eval_on_start": True}
    run_two(tmp_path, arguments | {"save_strategy": "steps", "save_steps": 2}, fsdp=True)
    assert (tmp_path / "checkpoint-2" / "pytorch_model_fsdp.bin").exists()
    start_score, *rows = history(tmp_path)
    assert start_score["step"] == 0
    (tmp_path / "history.json").write_text(json.dumps(rows))
    assert_same_run(tmp_path, one_process)
    assert not list(tmp_path.glob("_fsdp*"))
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, trust_remote_code=True)
    assert loaded.state_dict().keys() == load_file(tmp_path / "model.safetensors").keys()

    weights = (tmp_path / "model.safetensors").read_bytes()
    for name in ("checkpoint-4", "checkpoint-6"):
        shutil.rmtree(tmp_path / name)
    run_two(tmp_path, arguments | {"eval_on_start": False}, True, fsdp=True)
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_fsdp2_trains_in_bf16(one_process, tmp_path):
    """BatchNorm stays in fp32, as its running statistics are, and it accepts a single type only."""
    run_two(tmp_path, FROZEN | BATCHES["two each"] | SHARDED | {"bf16": True}, fsdp=True)
    losses = [[row["loss"] for row in history(folder) if "loss" in row] for folder in (tmp_path, one_process)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert {
        weight.dtype for name, weight in load_file(tmp_path / "model.safetensors").items() if "num_" not in name
    } == {torch.float32}
