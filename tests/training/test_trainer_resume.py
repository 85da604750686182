"""Runs that are killed at any moment end with the weights and the log of a run that was not."""

import json
import multiprocessing
import shutil
import time
from pathlib import Path

import pytest
from distributed_training import make_trainer, run, start
from safetensors.torch import load_file

from setr_hf import SetrTrainer
from setr_hf.files import LOCK_NAME
from setr_hf.training.output_folder import is_complete, last_complete_checkpoint, output_folder_lock


# 3 steps are an epoch. The random numbers of dropout and drop path, too, must continue where they stopped.
ARGUMENTS = {
    "max_steps": 8,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "config": {"drop_path_rate": 0.3, "hidden_dropout_prob": 0.1},
}
WORKERS = {"dataloader_num_workers": 2, "dataloader_multiprocessing_context": "fork"}
WORKERS_THAT_STAY = WORKERS | {"dataloader_persistent_workers": True}
LOADERS = {
    "in the process": {},
    "workers": WORKERS,
    "accumulation": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
}


def kill_when(process, condition):
    """Ends a process as soon as a condition holds, which it does not at first."""
    while not condition():
        assert process.is_alive(), "the run ended before it was to be killed"
        time.sleep(0.0005)
    process.kill()
    process.join()


def run_to_the_end(process):
    process.join()
    assert process.exitcode == 0


def results(folder):
    return (folder / "model.safetensors").read_bytes(), json.loads((folder / "history.json").read_text())


def num_examples_made(folder):
    record = folder / "examples-0.txt"
    return len(record.read_text().splitlines()) if record.exists() else 0


@pytest.mark.long
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(tmp_path):
    arguments = ARGUMENTS | WORKERS_THAT_STAY
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    first = start(run, undisturbed, arguments)

    # Before there is any complete checkpoint: everything but the last file is there.
    run_to_be_killed = start(run, folder, arguments, False, "checkpoint-1/trainer_state.json")
    run_to_be_killed.join()
    assert run_to_be_killed.exitcode == -9
    assert (folder / "checkpoint-1" / "optimizer.pt").exists()
    assert last_complete_checkpoint(folder) is None

    # In the middle of the first epoch, with a checkpoint of it.
    kill_when(
        start(run, folder, arguments, True),
        lambda: is_complete(folder / "checkpoint-2") and num_examples_made(folder) > 12,
    )
    # While the weights are written, or shortly after.
    kill_when(start(run, folder, arguments, True), (folder / "checkpoint-4" / "model.safetensors").exists)
    # While a checkpoint is written in the middle of the second epoch.
    run_to_be_killed = start(run, folder, arguments, True, "checkpoint-5/trainer_state.json")
    run_to_be_killed.join()
    assert run_to_be_killed.exitcode == -9
    assert last_complete_checkpoint(folder) == str(folder / "checkpoint-4")
    # After the last step, before the model is saved.
    kill_when(start(run, folder, arguments, True), lambda: is_complete(folder / "checkpoint-8"))
    (folder / "model.safetensors").unlink(missing_ok=True)

    run_to_the_end(start(run, folder, arguments, True))
    run_to_the_end(first)
    assert results(folder) == results(undisturbed)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_run_killed_in_its_second_epoch_ends_as_one_that_was_not(tmp_path, loader):
    """The checkpoint of the epoch's first step is complete, that of the second is being written."""
    arguments = ARGUMENTS | LOADERS[loader] | {"max_steps": 6}
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    runs = [
        start(run, undisturbed, arguments),
        start(run, folder, arguments, False, "checkpoint-5/trainer_state.json"),
    ]
    for process in runs:
        process.join()
    assert [process.exitcode for process in runs] == [0, -9]
    assert last_complete_checkpoint(folder) == str(folder / "checkpoint-4")
    run_to_the_end(start(run, folder, arguments, True))
    assert results(folder) == results(undisturbed)


def test_the_best_checkpoint_is_known_after_a_resumption(tmp_path):
    """The best one is kept although it is old, even by a run that did not write it, and is saved in the end."""
    # The lowest score counts as the best: as scores rise, the best checkpoint is the first.
    arguments = {"greater_is_better": False, "load_best_model_at_end": True, "eval_steps": 1, "save_total_limit": 1}
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    run_to_the_end(start(run, undisturbed, ARGUMENTS | arguments))
    for step in (2, 5):
        killed = start(run, folder, ARGUMENTS | arguments, True, f"checkpoint-{step}/trainer_state.json")
        killed.join()
        assert killed.exitcode == -9
    run_to_the_end(start(run, folder, ARGUMENTS | arguments, True))
    assert results(folder) == results(undisturbed)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-1"]
    saved, kept = load_file(folder / "model.safetensors"), load_file(folder / "checkpoint-1" / "model.safetensors")
    assert all(saved[name].equal(kept[name]) for name in kept)


def test_incomplete_checkpoints_are_passed_over_and_removed(tmp_path, caplog):
    trainer = make_trainer(tmp_path, {"max_steps": 3, "save_strategy": "steps", "save_steps": 1})
    trainer.train()
    state = tmp_path / "checkpoint-3" / "trainer_state.json"
    state.write_text(state.read_text()[:-3])
    (tmp_path / "checkpoint-20").mkdir()
    (tmp_path / "checkpoint-30-backup").mkdir()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    with pytest.raises(
        ValueError, match=r"checkpoint-20 is not a complete checkpoint; the last one in .* is .*checkpoint-2$"
    ):
        make_trainer(tmp_path, {"max_steps": 3}).train(resume_from_checkpoint=str(tmp_path / "checkpoint-20"))
    resumed = make_trainer(tmp_path, {"max_steps": 3})
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3
    assert [row["step"] for row in resumed.state.log_history if "loss" in row] == [1, 2, 3]
    names = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert names == ["checkpoint-1", "checkpoint-2", "checkpoint-30-backup"]


def test_a_checkpoint_that_is_overwritten_is_incomplete_meanwhile(tmp_path):
    class Watched(SetrTrainer):
        def _save_rng_state(self, output_dir):
            seen.append((output_dir, is_complete(output_dir)))
            super()._save_rng_state(output_dir)

    seen = []
    arguments = {"max_steps": 1, "save_strategy": "steps"}
    for _ in range(2):
        trainer = make_trainer(tmp_path, arguments)
        trainer.__class__ = Watched
        trainer.train()
    assert seen == [(str(tmp_path / "checkpoint-1"), False)] * 2
    assert is_complete(tmp_path / "checkpoint-1")


def hold(folder, is_held):
    with output_folder_lock(folder):
        is_held.set()
        time.sleep(60)


def test_a_folder_that_another_running_job_holds_is_refused_until_that_job_is_dead(tmp_path, monkeypatch):
    monkeypatch.setattr("setr_hf.files.LOCK_TIMEOUT", 0.1)
    is_held = multiprocessing.get_context("forkserver").Event()
    other = start(hold, tmp_path / "run", is_held)
    assert is_held.wait(60)
    for resume in (False, True):
        with (
            pytest.raises(ValueError, match=r"another running job writes to .*run: wait until it ends, or choose"),
            output_folder_lock(tmp_path / "run", resume=resume),
        ):
            pass
    other.kill()
    other.join()
    with output_folder_lock(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK_NAME).exists()
    assert not (tmp_path / "run" / LOCK_NAME).exists()


def hold_for_a_moment(folder, held):
    """Notes when it has the folder, and when it is about to leave it."""
    for _ in range(20):
        with output_folder_lock(folder), held.open("a") as file:
            file.write("in\n")
            file.flush()
            time.sleep(0.002)
            file.write("out\n")


def test_a_lock_that_is_deleted_is_still_held_by_one_process_at_a_time(tmp_path):
    processes = [start(hold_for_a_moment, tmp_path / "run", tmp_path / "held.txt") for _ in range(3)]
    for process in processes:
        run_to_the_end(process)
    assert (tmp_path / "held.txt").read_text().split() == ["in", "out"] * 60
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("left", ["checkpoint-10", "model.safetensors", "config.json"])
def test_a_folder_of_another_run_is_refused_unless_that_is_resumed(tmp_path, left):
    (tmp_path / left).mkdir()
    with (
        pytest.raises(ValueError, match=f"holds {left} of another run: resume that run, or choose another output_dir"),
        output_folder_lock(tmp_path),
    ):
        pass
    with output_folder_lock(tmp_path, resume=True):
        pass


def test_a_folder_with_other_files_is_free(tmp_path):
    Path(tmp_path / "notes.txt").touch()
    for _ in range(2):
        with output_folder_lock(tmp_path):
            pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    make_trainer(folder, {"max_steps": 1, "save_strategy": "steps", "save_steps": 1}).train()
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.001}, r"learning_rate was 0\.01 and 0\.1, now 0\.001 and 0\.01\)"),
        ({"weight_decay": 0.1}, r"weight_decay was 0\.0, now 0\.0 and 0\.1\)"),
        ({"head_learning_rate_ratio": 1}, "optimizer of .* does not fit"),
        ({"optim": "adamw_torch", "optim_args": None}, "optimizer of .* does not fit"),
        ({"optim_args": "momentum=0.9,nesterov=True"}, "nesterov was False, now True"),
    ],
)
def test_a_run_does_not_go_on_with_other_rates_than_those_it_is_given(finished, tmp_path, change, message):
    folder = shutil.copytree(finished, tmp_path / "run")
    resumed = make_trainer(folder, change | {"max_steps": 2})
    with pytest.raises(ValueError, match=rf"(?s){message}.*start a run in another output folder.*--model"):
        resumed.train(resume_from_checkpoint=True)
    assert is_complete(folder / "checkpoint-1")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize(("size", "message"), [(100, "{} is damaged .*: remove .*checkpoint-1"), (None, "holds no ")])
def test_a_checkpoint_that_is_not_whole_is_not_resumed(finished, tmp_path, name, size, message):
    folder = shutil.copytree(finished, tmp_path / "run")
    file = folder / "checkpoint-1" / name
    content = file.read_bytes()
    file.unlink()
    if size:
        file.write_bytes(content[:size])
    with pytest.raises(ValueError, match=message.format(name)):
        make_trainer(folder, {"max_steps": 2}).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_another_network_is_not_resumed(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(ValueError, match=r"weights of another network: .* such as auxiliary_heads"):
        make_trainer(folder, {"max_steps": 2}, {"decoder_type": "pup"}).train(resume_from_checkpoint=True)
