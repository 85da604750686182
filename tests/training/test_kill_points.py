"""Runs that are killed at any change on the disk: what looks complete is, and they resume to the same bits."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from distributed_training import CONFIG, kill_at_change, run, start

from setr_hf import SetrConfig, SetrForSemanticSegmentation
from setr_hf.training.output_folder import checkpoint_folders, is_complete, last_complete_checkpoint, whole_model


ARGUMENTS = {
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
}
FIRST, SECOND = ARGUMENTS | {"max_steps": 2}, ARGUMENTS | {"max_steps": 4}
NEVER = 10**9
SAMPLE = 4


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def changes(folder):
    return folder.with_suffix(".log").read_text().splitlines()


def run_to_the_end(*args):
    process = start(run, *args)
    process.join()
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A run that has ended, which the others go on from."""
    folder = tmp_path_factory.mktemp("earlier") / "run"
    run_to_the_end(folder, FIRST)
    return folder


@pytest.fixture(scope="module")
def undisturbed(earlier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    shutil.copytree(earlier, folder)
    run_to_the_end(folder, SECOND, True, NEVER)
    return folder


def check_killed_at(number, earlier, undisturbed, folder):
    shutil.copytree(earlier, folder)
    killed = start(run, folder, SECOND, True, number)
    killed.join()
    assert killed.exitcode == -9
    complete = [checkpoint for checkpoint in checkpoint_folders(folder) if is_complete(checkpoint)]
    assert last_complete_checkpoint(folder) == str(complete[-1])
    for checkpoint in complete:
        assert files(checkpoint) == files(earlier / "checkpoint-2")
    SetrForSemanticSegmentation.from_pretrained(folder)
    weights = (folder / "model.safetensors").read_bytes()
    assert weights in [(run_folder / "model.safetensors").read_bytes() for run_folder in (earlier, undisturbed)]

    run_to_the_end(folder, SECOND, True)
    assert (folder / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert json.loads((folder / "history.json").read_text()) == json.loads((undisturbed / "history.json").read_text())
    assert files(folder) == files(undisturbed)


def test_the_changes_of_a_run_are_those_of_every_stage(undisturbed):
    """What the tests below kill at: checkpoints written and deleted, pictures, the final model, its card."""
    text = "\n".join(changes(undisturbed))
    for stage in (
        "os.mkdir .*/checkpoint-3",
        r"os.rename .*/checkpoint-3/.model.\d+.unfinished/model.safetensors",
        "open .*/checkpoint-3/trainer_state.json",
        "os.remove .*/checkpoint-2/trainer_state.json",
        "os.remove model.safetensors",
        r"os.rename .*/predictions/.step-4.\d+.unfinished.png",
        r"os.rename .*/run/.model.\d+.unfinished/model.safetensors",
        r"os.rename .*/run/.README.\d+.unfinished.md",
    ):
        assert re.search(stage, text), stage


@pytest.mark.parametrize("part", range(SAMPLE))
def test_a_run_killed_at_a_change_goes_on_as_if_it_was_not(earlier, undisturbed, tmp_path, part):
    number = len(changes(undisturbed)) * (2 * part + 1) // (2 * SAMPLE)
    check_killed_at(number, earlier, undisturbed, tmp_path / "run")


@pytest.mark.parametrize("stage", ["os.remove .*/checkpoint-3/trainer_state.json", "os.remove model.safetensors"])
def test_a_run_killed_while_it_deletes_a_checkpoint_goes_on(earlier, undisturbed, tmp_path, stage):
    found = [index for index, change in enumerate(changes(undisturbed), start=1) if re.search(stage, change)]
    check_killed_at(found[-1] + 1, earlier, undisturbed, tmp_path / "run")


def make_model(width, seed):
    torch.manual_seed(seed)
    return SetrForSemanticSegmentation(SetrConfig(**CONFIG | {"intermediate_size": width}, num_labels=5))


def save(folder: Path, model: tuple, shard_size: str, killed_at: int):
    kill_at_change(killed_at, folder)
    with whole_model(folder) as new:
        make_model(*model).save_pretrained(new, max_shard_size=shard_size)


def loads(folder, model):
    """Whether a folder holds this model, and not in part."""
    expected = make_model(*model)
    if SetrConfig.from_pretrained(folder).intermediate_size != expected.config.intermediate_size:
        return False
    found = SetrForSemanticSegmentation.from_pretrained(folder).state_dict()
    return all(tensor.equal(found[name]) for name, tensor in expected.state_dict().items())


@pytest.mark.parametrize(
    ("earlier", "shards", "always_loads"),
    [((32, 1), ("50GB", "50GB"), True), ((48, 1), ("50GB", "50GB"), False), ((48, 1), ("20KB", "40KB"), False)],
    ids=["same network", "another network", "shards"],
)
def test_weights_never_stand_beside_the_configuration_of_another_model(tmp_path, earlier, shards, always_loads):
    folder, new, seen = tmp_path / "model", (32, 0), []
    for killed_at in range(1, 100):
        shutil.rmtree(folder, ignore_errors=True)
        make_model(*earlier).save_pretrained(folder, max_shard_size=shards[0])
        saving = start(save, folder, new, shards[1], killed_at)
        saving.join()
        try:
            found = [model for model in (earlier, new) if loads(folder, model)]
            assert len(found) == 1
            seen += found
        except OSError as error:
            assert "no file named model.safetensors" in str(error) and not always_loads
        if saving.exitcode == 0:
            break
    assert seen[0] == earlier and seen[-1] == new and seen == sorted(seen, reverse=True)
    assert not list(folder.glob(".*"))
