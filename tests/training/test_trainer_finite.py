"""Training ends at the first loss or gradient that is not finite, in a line that says where it came from."""

import json
import re
import subprocess
import sys

import pytest
import torch
from distributed_training import make_trainer
from paths import HELPERS
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments

from setr_hf.data.examples import collate
from setr_hf.training.finite import MOST_SKIPPED_STEPS, NAMES, FiniteSteps, decoded_names, encoded_names
from setr_hf.training.output_folder import last_complete_checkpoint


class Poisoned(torch.utils.data.Dataset):
    """Examples of which one has a pixel that is not finite."""

    def __init__(self, examples, index, value=float("nan")):
        self.examples, self.index, self.value = examples, index, value

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        example = self.examples[index]
        if index == self.index:
            example["pixel_values"][0, 5, 5] = self.value
        return example


class AsStream(IterableDataset):
    def __init__(self, examples):
        self.examples = examples

    def __iter__(self):
        return (self.examples[index] for index in range(len(self.examples)))


def poisoned_trainer(folder, index=7, value=float("nan"), **arguments):
    trainer = make_trainer(folder, {"max_steps": 6, "save_strategy": "steps", "save_steps": 1, **arguments})
    trainer.train_dataset = Poisoned(trainer.train_dataset, index, value)
    return trainer


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_training_stops_at_a_loss_that_is_not_finite_and_names_step_rates_and_samples(tmp_path, value):
    trainer = poisoned_trainer(tmp_path, value=value)
    with pytest.raises(ValueError) as error:
        trainer.train()
    message = str(error.value)
    step = trainer.state.global_step + 1
    assert message.startswith(f"training stopped at step {step}, before it changed the weights: the loss is nan")
    assert "gradient norm nan, at a learning rate of 0.0" in message
    named = re.search("in a batch of (.*?)\\. Try a lower learning_rate", message)[1].split(", ")
    assert len(named) == 4 and "scene_7" in named
    assert [row["step"] for row in trainer.state.log_history] == list(range(1, step))


def test_the_weights_and_the_checkpoints_before_it_stay_as_they_were(tmp_path):
    trainer = poisoned_trainer(tmp_path)
    with pytest.raises(ValueError, match="training stopped at step"):
        trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    last = last_complete_checkpoint(tmp_path)
    assert last is None if trainer.state.global_step == 0 else last.endswith(f"-{trainer.state.global_step}")
    assert not (tmp_path / "model.safetensors").exists()


def test_a_rate_under_which_training_diverges_is_named(tmp_path):
    trainer = make_trainer(tmp_path, {"max_steps": 5, "lr_scheduler_type": "constant", "lr_scheduler_kwargs": {}})
    trainer.args.learning_rate = 1e30  # As an option it is refused.
    with pytest.raises(
        ValueError, match=r"training stopped at step 2, .* at a learning rate of 1e\+30 and 1e\+31, in a"
    ):
        trainer.train()


@pytest.mark.parametrize(
    "arguments",
    [
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
        {"max_grad_norm": 0.0},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_samples_are_named_however_batches_are_made(tmp_path, arguments):
    trainer = poisoned_trainer(tmp_path, **arguments)
    with pytest.raises(ValueError) as error:
        trainer.train()
    named = re.search("in a batch of (.*?)\\. Try", str(error.value))[1].split(", ")
    # Of the accumulated batches, the one whose loss is not finite.
    assert "scene_7" in named and len(named) == trainer.args.per_device_train_batch_size


def test_samples_of_a_stream_are_named_although_one_process_reads_for_all(tmp_path):
    trainer = poisoned_trainer(tmp_path, accelerator_config={"dispatch_batches": True})
    trainer.train_dataset = AsStream(trainer.train_dataset)
    with pytest.raises(ValueError, match=r"at step 2, .* in a batch of scene_4, scene_5, scene_6, scene_7\."):
        trainer.train()


def test_long_names_and_those_of_other_scripts_travel_in_batches():
    names = ["a", "Straße/Ä 1", "写真" * 200]
    encoded = encoded_names(names)
    assert encoded.dtype == torch.uint8 and len(encoded) == 3
    decoded = decoded_names(encoded)
    assert decoded[:2] == names[:2] and names[2].startswith(decoded[2]) and len(decoded[2]) > 60


def test_neither_model_nor_collator_see_names(tmp_path):
    trainer = make_trainer(tmp_path, {"max_steps": 1})
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"pixel_values", "labels", NAMES}
    stock = Trainer(
        trainer.model,
        TrainingArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to=[], remove_unused_columns=False),
        train_dataset=trainer.train_dataset,
        data_collator=collate,
    )
    assert set(next(iter(stock.get_train_dataloader()))) == {"pixel_values", "labels"}
    assert stock.train().global_step == 1


def overflowing(norm, loss=1.0, is_scaled=True):
    parameter = torch.nn.Parameter(torch.zeros(1))
    return lambda steps: (
        steps.add(torch.tensor(loss), encoded_names(["scene_1"])),
        steps.check(torch.tensor(norm), 3, torch.optim.SGD([parameter], lr=0.5), is_scaled),
    )


def test_steps_that_a_scaler_skips_are_no_error_unless_they_do_not_end():
    steps, overflow, good = FiniteSteps(), overflowing(float("inf")), overflowing(2.0)
    for _ in range(MOST_SKIPPED_STEPS - 1):
        overflow(steps)
    good(steps)
    for _ in range(MOST_SKIPPED_STEPS - 1):
        overflow(steps)
    with pytest.raises(
        ValueError, match="loss is 1 and the gradient norm inf, for 30 steps in a row, at a learning rate"
    ):
        overflow(steps)


def test_a_scaler_does_not_excuse_a_loss_that_is_not_finite():
    with pytest.raises(ValueError, match=r"the loss is inf and the gradient norm nan, at a learning rate of 0\.5"):
        overflowing(float("nan"), float("inf"))(FiniteSteps())


def test_a_gradient_that_is_not_finite_is_an_error_without_a_scaler():
    with pytest.raises(ValueError, match="the loss is 1 and the gradient norm inf"):
        overflowing(float("inf"), is_scaled=False)(FiniteSteps())


def test_training_with_a_scaler_goes_on_after_a_skipped_step(tmp_path):
    trainer = make_trainer(tmp_path, {"max_steps": 3, "logging_steps": 1})
    # The first scale overflows in fp32, the halved one does not.
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    trainer.accelerator.native_amp, trainer.accelerator.state._mixed_precision = True, "fp16"
    trainer.train()
    assert trainer.state.global_step == 3
    assert trainer.accelerator.scaler.get_scale() < 2.0**127


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, kind):
    trainer = make_trainer(tmp_path, {})
    tensors = dict(trainer.model.named_parameters() if kind == "parameter" else trainer.model.named_buffers())
    name = [name for name, tensor in tensors.items() if tensor.is_floating_point()][-1]
    with torch.no_grad():
        tensors[name].view(-1)[0] = float("inf")
    with pytest.raises(
        ValueError, match=rf"the model of step 0 is not saved: 1 of its \d+ tensors, such as {name}, hold"
    ):
        trainer.save_model()
    assert not list(tmp_path.glob("*.safetensors"))


def test_several_processes_stop_together_with_the_same_line(tmp_path):
    """The sample is read by one of them; gradients are summed over both."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = HELPERS / "distributed_divergence.py"
    subprocess.run([*command, str(script), str(tmp_path)], check=True, timeout=300)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["message"] == second["message"] and "scene_7" in first["message"]
    assert "the loss is nan" in first["message"]
    assert first["step"] == second["step"]
    assert first["is_finite"] and second["is_finite"]
