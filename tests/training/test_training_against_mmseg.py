"""
Five training steps, ours against mmsegmentation's and the original repository's, from the same weights on the same
batches, in fp32 with BatchNorm in training mode. Losses and rates are compared with those on record in the JSON files
of this folder, which `mmseg_training_reference.py` and `original_training_reference.py` wrote. With mmsegmentation run
live, so are all weights and running statistics after the steps:

    MMSEG_PYTHON=path/to/python python -m pytest tests/training/test_training_against_mmseg.py

where that Python has mmsegmentation 1.2.2.
"""

import functools
import json
import os
import subprocess

import pytest
import torch
from checkpoints import AUXILIARY_LAYERS, CLASSES, HEADS, stand_in
from paths import REFERENCES
from training_batches import SCHEDULE_STEPS, training_batches

from setr_hf import SetrForSemanticSegmentation
from setr_hf.checkpoints.convert import load_original
from setr_hf.data.examples import collate
from setr_hf.model.losses_setr import segmentation_loss
from setr_hf.training.arguments import SetrTrainingArguments
from setr_hf.training.optimization import parameter_groups, poly_schedule
from setr_hf.training.trainer import SetrTrainer


DECODERS = ["naive", "pup", "mla"]
# The published ones on ADE20K.
LEARNING_RATES = {"naive": 0.01, "pup": 0.001, "mla": 0.001}
AUXILIARY_CONVS = {"mmseg": 2, "original": 1}


def load(path, implementation, decoder):
    overrides = {
        "num_attention_heads": HEADS,
        "auxiliary_out_indices": list(AUXILIARY_LAYERS[implementation, decoder]),
        "semantic_loss_average": "all",
    }
    return load_original(path, overrides=overrides)[0]


def build_optimizer(model, decoder):
    groups = parameter_groups(model, LEARNING_RATES[decoder], 10, weight_decay=0, decay_parameter_names=[])
    return torch.optim.SGD(groups, momentum=0.9)


def train(model, decoder, batches):
    """The main loss and each auxiliary loss of every step, as theirs are logged: with the auxiliary weight of 0.4."""
    optimizer = build_optimizer(model.train(), decoder)
    schedule = poly_schedule(optimizer, SCHEDULE_STEPS)
    logged = []
    for pixel_values, labels in batches:
        outputs = model(pixel_values, labels=labels)
        losses = [
            weight * segmentation_loss(logits, labels, labels.shape[-2:], 255, "all")
            for weight, logits in zip([1, 0.4, 0.4, 0.4, 0.4], (outputs.logits, *outputs.auxiliary_logits))
        ]
        torch.testing.assert_close(outputs.loss, sum(losses))
        logged.append([loss.item() for loss in losses])
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
        schedule.step()
    return logged


def rates(model, decoder, num_training_steps):
    """Rate of the base and of the heads at the steps from 0 to `SCHEDULE_STEPS`."""
    optimizer = build_optimizer(model, decoder)
    schedule = poly_schedule(optimizer, num_training_steps)
    names = [group["name"].removesuffix("_without_decay") for group in optimizer.param_groups]
    found = {name: [] for name in names}
    for _ in range(SCHEDULE_STEPS + 1):
        for name, rate in zip(names, schedule.get_last_lr()):
            found[name].append(rate)
        optimizer.step()
        schedule.step()
    return found


def weights(model):
    """Weights and running statistics by name, without the counters of batches."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def on_record(implementation, decoder):
    path = REFERENCES / f"{implementation}_training.json"
    return json.loads(path.read_text())[decoder]


def assert_losses_equal(losses, expected):
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-5, atol=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """
    A function that trains a model of ours from the stand-in for an implementation's checkpoint, once, and returns its
    losses and its weights before and after.
    """

    @functools.cache
    def run(implementation, decoder):
        path = tmp_path_factory.mktemp("start") / "start.pth"
        state_dict = stand_in(implementation, decoder, auxiliary_convs=AUXILIARY_CONVS[implementation])
        torch.save({"meta": {}, "state_dict": state_dict}, path)
        model = load(path, implementation, decoder)
        before = weights(model)
        losses = train(model, decoder, training_batches(implementation, CLASSES))
        return losses, before, weights(model)

    return run


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """The folder that `mmseg_training_reference.py` fills."""
    python = os.environ.get("MMSEG_PYTHON")
    if not python:
        pytest.skip("set MMSEG_PYTHON to a Python that has mmsegmentation 1.2.2 to run this test")
    folder = tmp_path_factory.mktemp("mmseg")
    subprocess.run([python, REFERENCES / "mmseg_training_reference.py", folder], check=True)
    return folder


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("implementation", ["mmseg", "original"])
def test_losses_of_five_steps_are_those_on_record(trained, implementation, decoder):
    losses, _, _ = trained(implementation, decoder)
    assert_losses_equal(losses, on_record(implementation, decoder)["losses"])


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_trainer_with_the_papers_arguments_takes_these_steps(tmp_path, decoder):
    torch.save({"meta": {}, "state_dict": stand_in("original", decoder)}, tmp_path / "start.pth")
    examples = [
        {"pixel_values": image, "labels": labels}
        for batch in training_batches("original", CLASSES)
        for image, labels in zip(*batch)
    ]
    arguments = SetrTrainingArguments(
        str(tmp_path / "run"), max_steps=SCHEDULE_STEPS, per_device_train_batch_size=4,
        train_sampling_strategy="sequential", optim="sgd", optim_args="momentum=0.9", max_grad_norm=0,
        learning_rate=LEARNING_RATES[decoder], head_learning_rate_ratio=10, lr_scheduler_type="polynomial",
        lr_scheduler_kwargs={"power": 0.9, "min_lr": 1e-4}, logging_steps=1, save_strategy="no", report_to=[],
        use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    model = load(tmp_path / "start.pth", "original", decoder)
    trainer = SetrTrainer(model, arguments, train_dataset=examples, data_collator=collate)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == SCHEDULE_STEPS
    expected = on_record("original", decoder)["losses"]
    assert losses[: len(expected)] == pytest.approx([sum(step) for step in expected], rel=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_rates_are_those_on_record(tiny_config, decoder):
    model = SetrForSemanticSegmentation(tiny_config(decoder_type=decoder))
    record = on_record("mmseg", decoder)
    ours = rates(model, decoder, SCHEDULE_STEPS)
    # mmsegmentation 1.x as published counts one step less, so that its last one, too, has the lowest rate.
    ours_as_published = rates(model, decoder, SCHEDULE_STEPS - 1)
    for part in ("base", "head"):
        assert ours[part] == pytest.approx(record["rates"][part], rel=1e-9)
        assert ours_as_published[part] == pytest.approx(record["rates_as_published"][part], rel=1e-9)


@pytest.mark.parametrize("decoder", DECODERS)
def test_losses_of_five_steps_are_those_of_mmsegmentation(trained, live, decoder):
    losses, _, _ = trained("mmseg", decoder)
    result = json.loads((live / "mmseg_training.json").read_text())[decoder]
    assert_losses_equal(losses, result["losses"])
    record = on_record("mmseg", decoder)
    assert_losses_equal(record["losses"], result["losses"])
    for part in ("base", "head"):
        assert record["rates"][part] == pytest.approx(result["rates"][part], rel=1e-9)


@pytest.mark.parametrize("decoder", DECODERS)
def test_weights_and_running_statistics_change_as_in_mmsegmentation(trained, live, decoder):
    """What five steps change is compared, of which a weight's own size would hide much; 1e-6 is fp32's resolution."""
    _, before, after = trained("mmseg", decoder)
    expected = weights(load(live / f"{decoder}.pth", "mmseg", decoder))
    assert after.keys() == expected.keys() == before.keys()
    for name in after:
        torch.testing.assert_close(
            after[name] - before[name],
            expected[name] - before[name],
            rtol=1e-4,
            atol=1e-6,
            msg=lambda text, name=name: f"{name}: {text}",
        )
