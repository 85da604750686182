"""The memory dial: what is predicted against what is measured, and what is chosen for less and less memory."""

from functools import partial

import pytest
import torch
from distributed_training import make_trainer
from torch.profiler import ProfilerActivity, profile
from transformers import DINOv3ViTConfig

from setr_hf import (
    SetrConfig,
    SetrForSemanticSegmentation,
    SetrModel,
    SetrTrainingArguments,
    add_lora,
    plan_memory,
)
from setr_hf.errors import SetrError
from setr_hf.training.memory import (
    CHECKPOINTING,
    MeasuredMemory,
    available_memory,
    concessions,
    largest_that_fits,
    parse_memory,
)
from setr_hf.training.optimization import freeze_layers
from setr_hf.training.options import parse_command
from setr_hf.training.simulation import Simulation, StepSettings


SMALL = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
SMALL |= {"image_size": 96, "decoder_hidden_size": 16, "mla_hidden_size": 8, "num_labels": 20}
SIDE = 96


def arguments_of(folder, **options):
    return SetrTrainingArguments(str(folder), report_to=[], use_cpu=True, **options)


def measured_bytes(config, settings, optimizer_class, adapt=lambda model: model):
    """The peak of a step as the CPU's allocator reports it to the profiler."""
    model = adapt(SetrForSemanticSegmentation(config)).train()
    freeze_layers(model, settings.num_frozen_layers)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer_class(parameters)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    state = [value for state in optimizer.state.values() for value in state.values()]
    now = sum(tensor.nbytes for tensor in [*model.state_dict().values(), *state])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        batches = [
            (torch.rand(settings.batch_size, 3, SIDE, SIDE), torch.randint(20, (settings.batch_size, SIDE, SIDE)))
            for _ in range(settings.accumulation + 1)
        ]
        for images, labels in batches[:-1]:
            with torch.autocast("cpu", settings.dtype, enabled=settings.dtype is not None):
                loss = model(pixel_values=images, labels=labels).loss
            loss.backward()
            del loss
        optimizer.step()
    peak = now
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


PLAIN = StepSettings(2)
CHECKPOINTED = StepSettings(2, accumulation=3, gradient_checkpointing=True)
FROZEN = StepSettings(4, mixed_precision="bf16", num_frozen_layers=2)


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        *(
            ({"decoder_type": name}, settings)
            for name in ("naive", "pup", "mla")
            for settings in (PLAIN, CHECKPOINTED)
        ),
        ({"decoder_type": "naive"}, FROZEN),
        ({"decoder_type": "naive", "semantic_loss": {"cross_entropy": 1.0, "dice": 0.5}}, FROZEN),
    ],
)
def test_the_simulated_peak_is_that_of_the_allocator(fields, settings, tmp_path):
    config = SetrConfig(**SMALL, **fields)
    simulation = Simulation(config, (SIDE, SIDE), arguments_of(tmp_path, optim="adamw_torch"), "cpu")
    assert simulation.step_bytes(settings) == pytest.approx(
        measured_bytes(config, settings, torch.optim.AdamW), rel=0.05
    )


@pytest.mark.parametrize("settings", [PLAIN, CHECKPOINTED, FROZEN])
def test_the_simulated_peak_of_adapters_is_that_of_the_allocator(settings, tmp_path):
    config = SetrConfig(**SMALL, decoder_type="mla")
    arguments, adapt = arguments_of(tmp_path, optim="adamw_torch"), partial(add_lora, rank=2, dropout=0.1)
    predicted = Simulation(config, (SIDE, SIDE), arguments, "cpu", adapt).step_bytes(settings)
    assert predicted == pytest.approx(measured_bytes(config, settings, torch.optim.AdamW, adapt), rel=0.05)


def test_encoders_that_keep_positions_are_simulated_at_several_sizes_and_run_then(tmp_path):
    encoder = DINOv3ViTConfig(hidden_size=64, num_hidden_layers=4, num_attention_heads=4, image_size=SIDE)
    config = SetrConfig(backbone_config=encoder, num_labels=20)
    simulation = Simulation(config, (SIDE, SIDE), arguments_of(tmp_path), "cpu")
    assert simulation.step_bytes(StepSettings(1)) < simulation.step_bytes(StepSettings(2))
    model = SetrForSemanticSegmentation(config)
    assert model(torch.zeros(1, 3, SIDE, SIDE)).logits.isfinite().all()
    assert simulation.evaluation_bytes(StepSettings(1), 1) > 0


def test_adapters_take_less_memory_than_whole_layers(tmp_path):
    config = SetrConfig(**SMALL | {"hidden_size": 256, "intermediate_size": 1024}, decoder_type="naive")
    arguments = arguments_of(tmp_path, optim="adamw_torch")
    whole = Simulation(config, (SIDE, SIDE), arguments, "cpu").step_bytes(StepSettings(1))
    adapted = Simulation(config, (SIDE, SIDE), arguments, "cpu", partial(add_lora, rank=2)).step_bytes(StepSettings(1))
    # Three quarters of the memory of weights is that of gradients and two moments.
    encoder = 4 * SetrModel(config).num_parameters()
    assert 2.5 * encoder < whole - adapted < 3 * encoder


def test_each_concession_takes_less_memory(tmp_path):
    config = SetrConfig(**SMALL, decoder_type="naive")
    simulation = Simulation(config, (SIDE, SIDE), arguments_of(tmp_path, optim="sgd"), "cpu")
    steps = [
        StepSettings(16),
        StepSettings(1, 16),
        StepSettings(1, 16, gradient_checkpointing=True),
        StepSettings(1, 16, gradient_checkpointing=True, num_frozen_layers=4),
    ]
    peaks = [simulation.step_bytes(settings) for settings in steps]
    assert peaks == sorted(set(peaks), reverse=True)
    windows = [simulation.evaluation_bytes(steps[0], count) for count in (8, 1)]
    assert windows == sorted(set(windows), reverse=True)


@pytest.mark.parametrize(("most", "expected"), [(100, 16), (16, 16), (15, 8), (4, 4), (3, 2), (1, 1), (0, None)])
def test_the_largest_size_that_fits_is_found(most, expected):
    assert largest_that_fits([1, 2, 4, 8, 16], lambda size: size <= most) == expected


def plan_on(budget, arguments, monkeypatch, config=None, **options):
    """A plan for `budget` bytes of tensors, of a computer with bf16."""
    from setr_hf.training import memory

    monkeypatch.setattr(memory, "find_room", lambda *_: memory.Room(int(budget)))
    monkeypatch.setattr(memory, "has_bf16", lambda _: True)
    return plan_memory(config or SetrConfig(**SMALL, decoder_type="naive"), arguments, **options)


def test_what_is_given_up_in_which_order():
    """First the speed of keeping activations, then fp32, then the training of lower layers, from the bottom up."""
    steps = list(concessions(StepSettings(8), (), may_use_bf16=True, num_layers=24))
    given_up = [(step.num_frozen_layers, step.mixed_precision, step.gradient_checkpointing) for step in steps]
    both = [False, True]
    assert given_up == [
        *((0, precision, checkpointing) for precision in ("no", "bf16") for checkpointing in both),
        *((count, "bf16", checkpointing) for count in (6, 12, 18, 24) for checkpointing in both),
    ]
    fixed = list(concessions(StepSettings(8), {"gradient_checkpointing"}, may_use_bf16=False, num_layers=0))
    assert fixed == [StepSettings(8)]


def test_what_is_given_up_for_less_and_less_memory(tmp_path, monkeypatch):
    arguments = arguments_of(tmp_path, per_device_train_batch_size=4, optim="sgd", eval_window_batch_size=32)
    config = SetrConfig(**SMALL | {"num_hidden_layers": 1}, decoder_type="naive")
    plenty = plan_on(10**12, arguments, monkeypatch, config, memory="1TB")
    assert plenty.options == {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        CHECKPOINTING: False,
        "bf16": False,
        "num_frozen_layers": 0,
        "eval_window_batch_size": 32,
    }
    less = plan_on(plenty.training_bytes - 1, arguments, monkeypatch, config, memory="1TB")
    assert (less.per_device_train_batch_size, less.gradient_accumulation_steps) == (2, 2)
    assert max(less.training_bytes, less.evaluation_bytes) <= less.budget and less.eval_window_batch_size < 32
    least = Simulation(config, (SIDE, SIDE), arguments, "cpu").step_bytes(StepSettings(1, 4, True, "no", 1))
    frozen = plan_on(least, arguments, monkeypatch, config, memory="1TB", fixed={"bf16"})
    assert (frozen.per_device_train_batch_size, frozen.bf16) == (1, False)
    assert frozen.num_frozen_layers == 1 and "FROZEN" in str(frozen.rows)
    with pytest.raises(SetrError, match="the least that was found takes"):
        plan_on(least // 2, arguments, monkeypatch, config, memory="1TB", fixed={"bf16"})


def test_bf16_and_frozen_layers_are_chosen_only_for_memory_that_was_asked_for(tmp_path, monkeypatch):
    arguments = arguments_of(tmp_path, per_device_train_batch_size=4, optim="sgd")
    least = plan_on(10**12, arguments, monkeypatch, fixed={"per_device_train_batch_size"}).training_bytes
    with pytest.raises(SetrError, match="--memory"):
        plan_on(least / 10, arguments, monkeypatch)


def test_what_the_user_chose_stays(tmp_path, monkeypatch):
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "optim": "sgd"}
    arguments = arguments_of(tmp_path, **options)
    fixed = {"per_device_train_batch_size", "gradient_checkpointing", "bf16", "num_frozen_layers"}
    plan = plan_on(10**12, arguments, monkeypatch, memory="1TB", fixed=fixed)
    assert (plan.per_device_train_batch_size, plan.gradient_accumulation_steps) == (2, 2)
    with pytest.raises(SetrError, match="least"):
        plan_on(plan.training_bytes - 1, arguments, monkeypatch, memory="1TB", fixed=fixed)


@pytest.mark.parametrize(
    ("text", "expected"), [("8GB", 8 * 10**9), ("8 gib", 2**33), (" 0.5KiB", 512), ("1b", 1), ("2TB", 2 * 10**12)]
)
def test_amounts_of_memory(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "8",
        "GB",
        "0GB",
        "-8GB",
        "8XB",
        "8GBs",
        "nanGB",
        "infGB",
        "1e3GB",
        "8,5GB",
        "0.0001B",
        "٨GB",
        "9" * 400 + "GB",
    ],
)
def test_what_is_not_an_amount_of_memory_is_refused(text):
    with pytest.raises(SetrError, match="memory"):
        parse_command(["--dry-run", f"--memory={text}"])


@pytest.mark.parametrize("num_frozen", [-1, 5])
def test_layers_that_are_not_there_cannot_be_frozen(num_frozen):
    with pytest.raises(SetrError, match="layers"):
        freeze_layers(SetrForSemanticSegmentation(SetrConfig(**SMALL)), num_frozen)


def test_frozen_layers_keep_their_weights_and_others_do_not(tmp_path):
    trainer = make_trainer(tmp_path, {"max_steps": 1, "num_frozen_layers": 2, "eval_window_batch_size": 1})
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, value in trainer.model.named_parameters() if not torch.equal(before[name], value)}
    frozen = ("setr.embeddings.", "setr.layers.0.", "setr.layers.1.")
    assert changed and not any(name.startswith(frozen) for name in changed)
    assert any(name.startswith("setr.layers.2.") for name in changed)
    assert 0 <= trainer.evaluate()["eval_mean_iou"] <= 1


def test_the_peak_of_a_run_is_said_beside_the_prediction(tmp_path, capsys):
    trainer = make_trainer(tmp_path, {"max_steps": 1})
    rows = []
    trainer.add_callback(MeasuredMemory(10**9, rows))
    trainer.train()
    assert [name for name, _ in rows] == ["peak memory"]
    assert "predicted 1.00 GB" in capsys.readouterr().out


def test_the_available_memory_is_that_of_a_computer():
    assert 2**26 < available_memory() < 2**50
