"""How the global batch is split: by arithmetic, and by what fits in memory."""

import copy

import pytest
import torch
from distributed_training import make_trainer

from setr_hf import SetrTrainingArguments
from setr_hf.errors import SetrError
from setr_hf.training.batch_size import (
    TrialStep,
    available_memory,
    batch_arithmetic,
    fit_batch_size,
    fits_on_device,
    largest_batch_in_memory,
)
from setr_hf.training.options import parse_command


RECIPE = ("--recipe", "setr-pup-large-cityscapes-80k", "--dry-run")
AUTO = ("--per-device-train-batch-size", "auto")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((16, 8), (2, 1)),
        ((16, 1), (16, 1)),
        ((16, 2, 4), (4, 2)),
        ((16, 2, None, 8), (1, 8)),
        ((16, 4, 2, 2), (2, 2)),
        ((8, 8, 1), (1, 1)),
    ],
)
def test_a_global_batch_is_split_over_devices_and_accumulation(given, expected):
    assert batch_arithmetic(*given) == expected


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ((8, 6), ["6 processes", "1, 2, 4, 8"]),
        ((8, 16), ["16 processes", "1, 2, 4, 8"]),
        ((16, 2, 3), ["1 × 8", "2 × 4", "4 × 2", "8 × 1", "--global-batch-size 12"]),
        ((16, 2, 4, 4), ["= 32", "--global-batch-size 32"]),
        ((16, 1, 0), ["per device", "0"]),
        ((0, 1), ["batch", "0"]),
    ],
)
def test_a_batch_that_cannot_be_split_is_refused_with_the_possible_splits(given, named):
    with pytest.raises(SetrError) as error:
        batch_arithmetic(*given)
    assert all(text in str(error.value) for text in named)


def test_auto_stays_until_the_model_is_there():
    command = parse_command([*RECIPE, *AUTO, "--use-cpu"])
    assert command.options.per_device_train_batch_size == "auto"
    _, arguments = command.to_dataclasses()
    assert arguments.per_device_train_batch_size == 1


def test_on_a_gpu_a_recipe_is_split_by_what_fits_unless_the_split_is_given(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert parse_command(RECIPE).options.per_device_train_batch_size == "auto"
    assert parse_command([*RECIPE, "--use-cpu"]).options.per_device_train_batch_size == 8
    given = parse_command([*RECIPE, "--per-device-train-batch-size", "4"]).options
    assert (given.per_device_train_batch_size, given.gradient_accumulation_steps) == (4, 2)
    given = parse_command([*RECIPE, "--gradient-accumulation-steps", "4"]).options
    assert (given.per_device_train_batch_size, given.gradient_accumulation_steps) == (2, 4)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--dry-run", *AUTO], ["--global-batch-size"]),
        ([*RECIPE, *AUTO, "--gradient-accumulation-steps", "2"], ["--gradient-accumulation-steps"]),
    ],
)
def test_auto_that_cannot_be_followed_is_refused(arguments, named):
    with pytest.raises(SetrError) as error:
        parse_command(arguments)
    assert all(text in str(error.value) for text in named)


class Memory:
    """A trial of which each sample takes 100 MB in addition to 50 MB, or which runs out of memory on a device."""

    def __init__(self, most: int | None = None):
        self.most = most
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])

    def run(self, batch_size):
        if self.most is not None and batch_size > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
        torch.ones((50 + 100 * batch_size) * 2**18)


@pytest.mark.parametrize(("free", "expected"), [(10, 1), (400, 2), (600, 4), (900, 8), (5000, 16)])
def test_memory_is_predicted_from_batches_of_one_and_two(free, expected):
    assert largest_batch_in_memory(Memory(), 16, free * 2**20) == expected


def test_a_batch_that_does_not_fit_on_a_device_is_noticed_and_a_bug_is_not_hidden():
    assert [fits_on_device(Memory(most=4), size) for size in (8, 4)] == [False, True]

    class Broken(Memory):
        def run(self, batch_size):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fits_on_device(Broken(), 1)


def test_the_available_memory_is_that_of_a_computer():
    assert 2**26 < available_memory() < 2**50


def test_a_trial_leaves_no_trace(tmp_path):
    """Weights, BatchNorm statistics, gradients, random numbers: the run after a trial is the run without one."""
    runs = []
    for with_trial in (False, True):
        trainer = make_trainer(tmp_path / str(with_trial), {"max_steps": 3}, {"hidden_dropout_prob": 0.1})
        if with_trial:
            before = copy.deepcopy(trainer.model.state_dict())
            size = fit_batch_size(trainer.model, trainer.args, (32, 32), 4)
            assert size == 4
            assert all(torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
            assert all(parameter.grad is None for parameter in trainer.model.parameters())
        trainer.train()
        runs.append((trainer.model.state_dict(), torch.rand(3)))
    assert all(torch.equal(runs[0][0][name], value) for name, value in runs[1][0].items())
    assert torch.equal(runs[0][1], runs[1][1])


def test_a_trial_uses_the_runs_precision_optimizer_and_gradient_checkpointing(tmp_path):
    trainer = make_trainer(tmp_path, {"bf16": True, "gradient_checkpointing": True, "optim": "adamw_torch"})
    trial = TrialStep(trainer.model, trainer.args, (32, 32))
    trial.run(2)
    assert trial.dtype == torch.bfloat16
    assert trial.model.is_gradient_checkpointing and not trainer.model.is_gradient_checkpointing
    assert isinstance(trial.optimizer, torch.optim.AdamW) and trial.optimizer.state


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_the_largest_batch_that_fits_on_a_gpu_is_found(tmp_path):
    trainer = make_trainer(tmp_path, {})
    arguments = SetrTrainingArguments(str(tmp_path), report_to=[])
    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        size = fit_batch_size(trainer.model.cpu(), arguments, (512, 512), 2**12)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 1 <= size < 2**12
