"""Which parameters are heads, their groups, and the poly schedule."""

import json

import pytest
import torch
from torch import nn

from setr_hf import SetrForSemanticSegmentation
from setr_hf.checkpoints.detection import Shapes, detect
from setr_hf.checkpoints.keys import conversion_rules
from setr_hf.training.optimization import head_parameter_names, parameter_groups, poly_schedule


DECODERS = ["naive", "pup", "mla"]
TINY = [f"tiny_{source}_{decoder}" for source in ("original", "mmseg0", "mmseg1") for decoder in DECODERS]
FULL_SIZE = [f"ade20k_large_{source}_{decoder}" for source in ("original", "mmseg0") for decoder in DECODERS]
NECK = ("decode_head.layernorms.", "decode_head.projections.", "decode_head.aggregations.")


@pytest.fixture
def model(tiny_config):
    """A function that makes a small model with initial weights."""
    return lambda decoder_type="mla": SetrForSemanticSegmentation(tiny_config(decoder_type=decoder_type))


def names_of(model, group):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter] for parameter in group["params"]}


def groups_by_name(model, decay_parameter_names=(), **options):
    options = {"learning_rate": 0.01, "head_learning_rate_ratio": 10, "weight_decay": 0.05} | options
    groups = parameter_groups(model, decay_parameter_names=decay_parameter_names, **options)
    return {group["name"]: group for group in groups}


@pytest.mark.parametrize("name", [*TINY, *FULL_SIZE, "cityscapes_base_original_naive"])
def test_heads_are_what_is_called_head_in_the_public_checkpoints(data_folder, name):
    manifest = json.loads((data_folder / "reference" / "manifests" / f"{name}.json").read_text())
    shapes = Shapes({key: tuple(shape) for key, shape in manifest["state_dict"].items()})
    facts, told = manifest["source"], {}
    if name in TINY:
        mla = facts["decoder"] == "mla"
        layers = facts.get("auxiliary_from_layers") or facts["backbone_out_layers"][: None if mla else 3]
        told = {"num_attention_heads": facts["heads"], "auxiliary_out_indices": layers}
    detection = detect(shapes, told)
    implementation, config = detection.implementation, detection.config
    with torch.device("meta"):
        model = SetrForSemanticSegmentation(config)
    theirs = {ours: rule.theirs[0] for rule in conversion_rules(implementation, config) for ours in rule.ours}
    names = {parameter for parameter, _ in model.named_parameters()}
    expected = {parameter for parameter in names if "head" in theirs[parameter]}
    assert len(expected) > 10
    assert head_parameter_names(model) == expected


@pytest.mark.parametrize("decoder_type", ["naive", "pup"])
def test_decoder_and_auxiliary_heads_are_heads(model, decoder_type):
    model = model(decoder_type)
    others = {name for name, _ in model.named_parameters()} - head_parameter_names(model)
    assert others == {f"setr.{name}" for name, _ in model.setr.named_parameters()}


def test_the_neck_of_mla_is_no_head(model):
    model = model("mla")
    heads = head_parameter_names(model)
    decoder = {name for name, _ in model.named_parameters() if name.startswith("decode_head.")}
    assert heads == {name for name in decoder if not name.startswith(NECK)}
    parts = {name.split(".")[1] for name in heads}
    assert parts == {"branches", "classifier", "auxiliary_classifiers"}


def test_a_backbone_of_another_model_is_no_head(tiny_config):
    backbone = {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    model = SetrForSemanticSegmentation(tiny_config(decoder_type="pup", backbone_config=backbone))
    heads = head_parameter_names(model)
    assert heads == {name for name, _ in model.named_parameters() if not name.startswith("backbone.")}


@pytest.mark.parametrize("decoder_type", DECODERS)
@pytest.mark.parametrize(("wrapper", "prefix"), [(torch.compile, "_orig_mod."), (nn.DataParallel, "module.")])
def test_wrapped_models_have_the_same_heads(model, decoder_type, wrapper, prefix):
    model = model(decoder_type)
    assert head_parameter_names(wrapper(model)) == {prefix + name for name in head_parameter_names(model)}


@pytest.mark.parametrize("decoder_type", DECODERS)
def test_heads_that_are_trained_beside_adapters_have_their_rate(model, decoder_type):
    peft = pytest.importorskip("peft")
    expected = head_parameter_names(model(decoder_type))
    modules = ["decode_head"] if decoder_type == "mla" else ["decode_head", "auxiliary_heads"]
    adapters = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=modules)
    adapted = peft.get_peft_model(model(decoder_type), adapters)
    groups = groups_by_name(adapted)
    heads = {
        name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
        for name in names_of(adapted, groups["head_without_decay"])
    }
    assert heads == expected
    others = names_of(adapted, groups["base_without_decay"])
    # A pair of matrices for each of two projections in four layers; the rest is the neck of mla.
    assert sum("lora_" in name for name in others) == 2 * 2 * 4
    assert {"decode_head." + name.split("default.")[1] for name in others if "lora_" not in name} == {
        name for name, _ in model(decoder_type).named_parameters() if name.startswith(NECK)
    }


@pytest.mark.parametrize("decoder_type", DECODERS)
def test_groups_hold_every_parameter_once_with_its_rate_and_decay(model, decoder_type):
    model = model(decoder_type)
    parameters = dict(model.named_parameters())
    decayed = {name for name, parameter in parameters.items() if parameter.ndim > 1}
    groups = groups_by_name(model, decayed)
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "base": (0.01, 0.05),
        "base_without_decay": (0.01, 0.0),
        "head": (0.1, 0.05),
        "head_without_decay": (0.1, 0.0),
    }
    heads = head_parameter_names(model)
    assert names_of(model, groups["base"]) == decayed - heads
    assert names_of(model, groups["base_without_decay"]) == parameters.keys() - decayed - heads
    assert names_of(model, groups["head"]) == decayed & heads
    assert names_of(model, groups["head_without_decay"]) == heads - decayed
    assert sum(len(group["params"]) for group in groups.values()) == len(parameters)


def test_frozen_parameters_and_empty_groups_are_left_out(model):
    model = model("pup")
    model.setr.requires_grad_(False)
    model.decode_head.layers.requires_grad_(False)
    groups = groups_by_name(model, head_parameter_names(model))
    assert list(groups) == ["head"]
    frozen = {name for name in head_parameter_names(model) if name.startswith("decode_head.layers.")}
    assert names_of(model, groups["head"]) == head_parameter_names(model) - frozen


@pytest.mark.parametrize("ratio", [0, -10])
def test_a_ratio_that_would_not_train_the_heads_is_named(model, ratio):
    with pytest.raises(ValueError, match=f"head_learning_rate_ratio must be a number greater than 0, got {ratio}"):
        groups_by_name(model(), head_learning_rate_ratio=ratio)


def optimizer_with(*rates):
    groups = [{"params": [nn.Parameter(torch.ones(2))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=rates[0], momentum=0.9)


def rates_at(schedule, steps):
    """The rates of all groups at these steps, stepping on from where the schedule is."""
    found = []
    for step in steps:
        while schedule.last_epoch < step:
            schedule.optimizer.step()
            schedule.step()
        found.append(schedule.get_last_lr())
    return found


def test_rates_of_the_papers_schedule():
    """(lr0 - 1e-4) (1 - t / T)^0.9 + 1e-4 with T = 1000, worked out in decimal numbers of 40 digits."""
    schedule = poly_schedule(optimizer_with(0.01, 0.1), 1000)
    expected = [
        [0.01, 0.1],
        [0.009991089554336564, 0.09991008550285078],
        [0.005405278639554651, 0.053635084453687844],
        [0.00011975309691819191, 0.00029932670526539105],
        [0.0001, 0.0001],
    ]
    found = rates_at(schedule, [0, 1, 500, 999, 1000])
    assert found == [pytest.approx(rates, rel=1e-12, abs=0) for rates in expected]


def test_the_schedule_is_linear_with_power_1():
    schedule = poly_schedule(optimizer_with(0.9, 0.5), 4, power=1, min_lr=0.1)
    expected = [[0.9, 0.5], [0.7, 0.4], [0.5, 0.3], [0.3, 0.2], [0.1, 0.1]]
    assert rates_at(schedule, range(5)) == [pytest.approx(rates, rel=1e-12, abs=0) for rates in expected]


def test_the_floor_holds_after_the_last_step():
    schedule = poly_schedule(optimizer_with(0.01, 0.1), 3, min_lr=0.002)
    assert rates_at(schedule, [4, 9]) == [pytest.approx([0.002, 0.002], rel=1e-12, abs=0)] * 2


def test_a_rate_below_the_floor_rises_to_it_as_in_the_original_code():
    schedule = poly_schedule(optimizer_with(0.02, 0.06), 2, power=1, min_lr=0.04)
    expected = [[0.02, 0.06], [0.03, 0.05], [0.04, 0.04]]
    assert rates_at(schedule, range(3)) == [pytest.approx(rates, rel=1e-12, abs=0) for rates in expected]


def test_a_saved_schedule_goes_on_where_it_stopped(tmp_path):
    """As the Trainer resumes: a new optimizer and a new schedule, then the states of both from files."""
    uninterrupted = poly_schedule(optimizer_with(0.01, 0.1), 10)
    expected = rates_at(uninterrupted, range(11))

    schedule = poly_schedule(optimizer_with(0.01, 0.1), 10)
    rates_at(schedule, [4])
    torch.save([schedule.optimizer.state_dict(), schedule.state_dict()], tmp_path / "states.pt")
    resumed = poly_schedule(optimizer_with(0.01, 0.1), 10)
    optimizer_state, schedule_state = torch.load(tmp_path / "states.pt", weights_only=True)
    resumed.optimizer.load_state_dict(optimizer_state)
    resumed.load_state_dict(schedule_state)
    assert [group["lr"] for group in resumed.optimizer.param_groups] == expected[4]
    assert rates_at(resumed, range(4, 11)) == expected[4:]


def test_a_new_schedule_starts_from_the_initial_rates():
    optimizer = optimizer_with(0.01, 0.1)
    rates_at(poly_schedule(optimizer, 10), [7])
    assert poly_schedule(optimizer, 10).get_last_lr() == pytest.approx([0.01, 0.1], rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_training_steps": 0}, "num_training_steps must be at least 1, got 0"),
        ({"num_training_steps": 5, "power": 0}, "power must be a number greater than 0, got 0"),
        ({"num_training_steps": 5, "min_lr": -1e-4}, "min_lr must be a number of at least 0, got -0.0001"),
    ],
)
def test_arguments_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        poly_schedule(optimizer_with(0.01), **options)


def test_a_group_that_does_not_learn_is_named(model):
    groups = parameter_groups(model("pup"), 0.0, 10, weight_decay=0, decay_parameter_names=[])
    with pytest.raises(ValueError, match="parameter group 'base_without_decay' must be greater than 0"):
        poly_schedule(torch.optim.SGD(groups), 10)
