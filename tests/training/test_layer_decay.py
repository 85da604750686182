"""Layer-wise rate decay: the rate of every parameter against the formula, on every kind of encoder."""

import pytest
import torch
from distributed_training import make_trainer
from small_stems import SMALL_STEMS
from transformers import AutoBackbone, AutoConfig

from setr_hf import SetrForSemanticSegmentation
from setr_hf.errors import SetrError
from setr_hf.training.encoder_layers import find_layers, layer_numbers, rate_factors
from setr_hf.training.optimization import parameter_groups, poly_schedule


RATE, RATIO, DECAY = 0.01, 10, 0.75
SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
SMALL |= {"image_size": 32, "patch_size": 16}


def expected_rate(name):
    """The formula written out, for the names of SETR's own encoder of 4 layers."""
    first, second, third = name.split(".")[:3]
    if first == "setr":
        exponent = 4 + 1 - (int(third) + 1) if second == "layers" else 4 + 1
        return RATE * DECAY**exponent
    is_neck = first == "decode_head" and second in ("layernorms", "projections", "aggregations")
    return RATE if is_neck else RATE * RATIO


@pytest.mark.parametrize("decoder_type", ["mla", "pup"])
def test_each_parameter_has_the_rate_of_its_layer_and_decays_as_before(decoder_type, tmp_path):
    arguments = {"layer_decay": DECAY, "weight_decay": 0.05, "learning_rate": RATE, "head_learning_rate_ratio": RATIO}
    arguments |= {"lr_scheduler_kwargs": {"power": 1, "min_lr": RATE / 2}}
    trainer = make_trainer(tmp_path, arguments, {"decoder_type": decoder_type})
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    groups = trainer.create_optimizer().param_groups
    assert sorted(names[parameter] for group in groups for parameter in group["params"]) == sorted(names.values())
    for group in groups:
        for name in (names[parameter] for parameter in group["params"]):
            assert group["lr"] == pytest.approx(expected_rate(name), rel=1e-12), name
            assert group["weight_decay"] == (0.05 if name in decayed else 0), name

    # Half-way down a straight line to half of each rate; the heads end at that of the base, as without decay.
    trainer.create_scheduler(num_training_steps=4)
    for _ in range(2):
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    for group in trainer.optimizer.param_groups:
        initial = group["initial_lr"]
        floor = RATE / 2 if group["name"].startswith("head") else initial / 2
        assert group["lr"] == pytest.approx((initial + floor) / 2, rel=1e-12)


def test_one_rate_makes_the_groups_that_there_were(tiny_config):
    model = SetrForSemanticSegmentation(tiny_config())
    plain, same = (parameter_groups(model, RATE, RATIO, 0.1, [], **options) for options in ({}, {"layer_decay": 1.0}))
    assert [group["name"] for group in same] == ["base_without_decay", "head_without_decay"]
    assert [group.keys() for group in plain] == [group.keys() for group in same]
    assert "rate_factor" not in same[0]


def test_layers_far_from_the_heads_do_not_rise_to_the_floor(tiny_config):
    model = SetrForSemanticSegmentation(tiny_config())
    groups = parameter_groups(model, RATE, RATIO, 0, [], layer_decay=0.1)
    schedule = poly_schedule(torch.optim.SGD(groups), 10, min_lr=RATE / 4)
    rates = dict(zip([group["name"] for group in groups], schedule.get_last_lr()))
    assert rates["embeddings_without_decay"] == pytest.approx(RATE * 1e-5)
    schedule.last_epoch = 9
    schedule.optimizer.step()
    schedule.step()
    rates = dict(zip(rates, schedule.get_last_lr()))
    assert rates["embeddings_without_decay"] == pytest.approx(RATE / 4 * 1e-5)
    assert rates["head_without_decay"] == pytest.approx(RATE / 4)


BACKBONES = ["dinov2", "dinov2_with_registers", "dinov3_vit", "beit", "vitdet"]


@pytest.mark.parametrize("kind", [*BACKBONES, "timm_backbone"])
def test_layers_of_other_encoders_are_found(kind):
    settings = SMALL | ({"num_heads": 2} if kind == "vitdet" else {})
    if kind == "beit":
        settings |= {"use_shared_relative_position_bias": True}
    if kind == "timm_backbone":
        pytest.importorskip("timm")
        settings = {"backbone": "vit_tiny_patch16_224", "use_pretrained_backbone": False}
    model = torch.nn.Module()
    model.backbone = AutoBackbone.from_config(AutoConfig.for_model(kind, **settings))
    count = 12 if kind == "timm_backbone" else 4
    _, layers = find_layers(model.backbone)
    assert len(layers) == count
    numbers, num_layers = layer_numbers(model)
    assert num_layers == count and set(numbers) == {name for name, _ in model.named_parameters()}
    for number, layer in enumerate(layers, start=1):
        own = {id(parameter) for parameter in layer.parameters()}
        assert {numbers[name] for name, parameter in model.named_parameters() if id(parameter) in own} == {number}
    others = {name: number for name, number in numbers.items() if not 1 <= number <= count}
    first = [name for name in others if "norm" not in name.rpartition(".")[0].rpartition(".")[2]]
    assert {others[name] for name in first} == {0}
    assert {number for name, number in others.items() if name not in first} <= {count + 1}
    factors = rate_factors(model, 0.5)
    assert {factors[name] for name in first} == {("embeddings", 0.5 ** (count + 1))}


@pytest.mark.parametrize("stem", SMALL_STEMS)
def test_the_stages_of_a_stem_are_no_layers_of_the_encoder(stem, tiny_config):
    """However many parameters a stem has beside so small an encoder."""
    sizes = {"num_hidden_layers": 3, "out_indices": [3], "auxiliary_out_indices": []}
    model = SetrForSemanticSegmentation(tiny_config(stem_config=SMALL_STEMS[stem], decoder_type="naive", **sizes))
    numbers, num_layers = layer_numbers(model)
    assert num_layers == 3
    assert {number for name, number in numbers.items() if name.startswith("setr.embeddings")} == {0}


@pytest.mark.parametrize("wrap", [torch.compile, torch.nn.DataParallel])
def test_wrapped_models_have_the_same_layers(wrap, tiny_config):
    model = SetrForSemanticSegmentation(tiny_config())
    plain = rate_factors(model, 0.5)
    wrapped = rate_factors(wrap(model), 0.5)
    assert list(plain.values()) == list(wrapped.values())
    assert [name.partition(".")[2] for name in wrapped] == list(plain)


def test_models_without_layers_are_refused():
    with pytest.raises(SetrError, match="a Linear has no encoder called backbone or setr"):
        rate_factors(torch.nn.Linear(2, 2), 0.5)
    model = torch.nn.Module()
    model.backbone = torch.nn.Linear(2, 2)
    with pytest.raises(SetrError, match="a Linear has no list of transformer layers"):
        rate_factors(model, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ({"layer_decay": value}, f"layer_decay must be a number above 0 and at most 1, got {value}")
            for value in (0, -0.5, 1.1, float("nan"), float("inf"))
        ),
        ({"layer_decay": 0.5, "freeze_encoder": True}, "freeze_encoder leaves no layers for layer_decay"),
    ],
)
def test_decays_out_of_range_are_refused(arguments, message, tmp_path):
    with pytest.raises(SetrError, match=message):
        make_trainer(tmp_path, arguments)


def test_a_decay_that_would_have_no_effect_is_refused(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(SetrError, match="layer_decay has no effect on an optimizer that is passed in"):
        make_trainer(tmp_path, {"layer_decay": 0.5, "head_learning_rate_ratio": 1}, optimizers=(optimizer, None))
