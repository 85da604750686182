"""Weighted sums of losses computed in tiles equal plain losses at full resolution, in value and gradient."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_losses import plain_semantic_loss
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from setr_hf.model import losses_setr
from setr_hf.model.combined_losses_setr import choose_hard, kth_smallest, semantic_loss
from setr_hf.model.loss_settings_setr import LossSettings
from setr_hf.training.memory import peak_memory


IGNORED = 255
SINGLE = {
    "focal": {"weights": {"focal": 1.0}},
    "weighted focal": {"weights": {"focal": 1.0}, "class_weights": [1.0, 2.0, 0.5, 3.0, 1.0], "focal_gamma": 1.5},
    "dice": {"weights": {"dice": 1.0}},
    "tversky": {"weights": {"tversky": 1.0}, "tversky_alpha": 0.3, "tversky_beta": 0.7},
    "ohem by threshold": {"weights": {"ohem": 1.0}, "ohem_threshold": 0.2, "ohem_min_kept": 10},
    "ohem at least": {"weights": {"ohem": 1.0}, "ohem_threshold": 0.001, "ohem_min_kept": 300},
    "ohem by loss": {"weights": {"ohem": 1.0}, "ohem_min_kept": 200, "class_weights": [1.0, 2.0, 0.5, 3.0, 1.0]},
    "ohem of few pixels": {"weights": {"ohem": 1.0}, "ohem_threshold": 0.1},
    "sum": {
        "weights": {"cross_entropy": 1.0, "dice": 0.5, "focal": 0.3, "ohem": 0.2, "tversky": 2},
        "label_smoothing": 0.1,
        "class_weights": [1.0, 2.0, 0.5, 3.0, 1.0],
        "tversky_alpha": 0.7,
        "ohem_min_kept": 100,
    },
    "sum over all pixels": {"weights": {"cross_entropy": 0.4, "dice": 1.0}, "average": "all"},
}
BINARY = {
    "cross-entropy": {"weights": {"binary_cross_entropy": 1.0}},
    "half the cross-entropy": {"weights": {"binary_cross_entropy": 0.5}, "class_weights": [1.0, 7.0]},
    "focal": {"weights": {"focal": 1.0}, "focal_alpha": 0.25},
    "dice": {"weights": {"dice": 1.0}},
    "sum": {
        "weights": {"binary_cross_entropy": 1.0, "tversky": 1.0, "ohem": 0.5},
        "tversky_alpha": 0.2,
        "label_smoothing": 0.2,
        "ohem_threshold": 0.6,
        "ohem_min_kept": 30,
    },
}
CASES = [(5, options) for options in SINGLE.values()] + [(1, options) for options in BINARY.values()]
NAMES = [*SINGLE, *(f"binary {name}" for name in BINARY)]
every_case = pytest.mark.parametrize(("num_labels", "options"), CASES, ids=NAMES)


def random_inputs(num_labels, dtype=torch.float32, shape=(2, 6, 5), label_shape=(40, 37), seed=0):
    generator = torch.Generator().manual_seed(seed)
    batch_size, *sides = shape
    logits = torch.randn(batch_size, num_labels, *sides, generator=generator, dtype=torch.float64).mul(3).to(dtype)
    labels = torch.randint(0, max(num_labels, 2), (batch_size, *label_shape), generator=generator)
    is_ignored = torch.rand(labels.shape, generator=generator) < 0.2
    return logits.requires_grad_(), labels.masked_fill(is_ignored, IGNORED)


def value_and_gradient(loss, logits):
    return loss.detach(), *torch.autograd.grad(loss, logits)


@every_case
def test_equals_the_loss_at_full_resolution(num_labels, options, monkeypatch):
    monkeypatch.setattr(losses_setr, "CPU_TILE_SCORES", 512)  # Several tiles.
    logits, labels = random_inputs(num_labels, torch.float64)
    wanted = LossSettings(**options)
    expected = value_and_gradient(plain_semantic_loss(logits, labels, (48, 40), wanted), logits)
    actual = value_and_gradient(semantic_loss(logits, labels, (48, 40), wanted), logits)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-11)


@every_case
def test_in_fp32_it_is_as_exact(num_labels, options):
    logits, labels = random_inputs(num_labels)
    wanted = LossSettings(**options)
    exact = logits.detach().double().requires_grad_()
    expected, exact_gradient = value_and_gradient(plain_semantic_loss(exact, labels, (48, 40), wanted), exact)
    loss, gradient = value_and_gradient(semantic_loss(logits, labels, (48, 40), wanted), logits)
    assert (loss.dtype, gradient.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-9)
    assert (gradient.double() - exact_gradient).norm() <= 1e-6 * exact_gradient.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_fp32(dtype):
    logits, labels = random_inputs(5, dtype)
    wanted = LossSettings(**SINGLE["sum"])
    exact = logits.detach().double().requires_grad_()
    expected, exact_gradient = value_and_gradient(plain_semantic_loss(exact, labels, (48, 40), wanted), exact)
    loss, gradient = value_and_gradient(semantic_loss(logits, labels, (48, 40), wanted), logits)
    assert (loss.dtype, gradient.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    assert (gradient.double() - exact_gradient).norm() <= torch.finfo(dtype).eps * exact_gradient.norm()


def test_one_logit_has_the_binary_cross_entropy_of_torch_and_the_focal_loss_of_torchvision():
    logits, labels = random_inputs(1, torch.float64)
    labels = labels.where(labels != IGNORED, 0)
    resized = F.interpolate(logits, size=(48, 40), mode="bilinear")[:, 0, :40, :37]
    expected = F.binary_cross_entropy_with_logits(resized, labels.double())
    torch.testing.assert_close(
        semantic_loss(logits, labels, (48, 40), LossSettings(**BINARY["cross-entropy"])), expected
    )
    expected = sigmoid_focal_loss(resized, labels.double(), alpha=0.25, gamma=2, reduction="mean")
    torch.testing.assert_close(semantic_loss(logits, labels, (48, 40), LossSettings(**BINARY["focal"])), expected)


def test_focal_loss_without_gamma_is_the_cross_entropy():
    logits, labels = random_inputs(5)
    expected = value_and_gradient(semantic_loss(logits, labels, (48, 40), LossSettings()), logits)
    without = LossSettings({"focal": 1.0}, focal_gamma=0)
    actual = value_and_gradient(semantic_loss(logits, labels, (48, 40), without), logits)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gamma", [0, 0.3, 1, 2])
def test_focal_loss_of_certain_pixels_is_finite(gamma):
    logits, labels = random_inputs(5)
    logits.data *= 1e4
    certain = semantic_loss(logits, labels, (48, 40), LossSettings({"focal": 1.0}, focal_gamma=gamma))
    assert all(part.isfinite().all() for part in value_and_gradient(certain, logits))


def test_a_class_without_a_pixel_in_the_batch_adds_nothing_to_dice():
    logits, labels = random_inputs(5, torch.float64)
    labels[labels == 3] = IGNORED
    wanted = LossSettings({"dice": 1.0})
    expected = value_and_gradient(plain_semantic_loss(logits, labels, (48, 40), wanted), logits)
    actual = value_and_gradient(semantic_loss(logits, labels, (48, 40), wanted), logits)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-11)
    assert actual[0] < 0.8


def test_tversky_with_halves_is_dice():
    logits, labels = random_inputs(5)
    dice, tversky = (
        value_and_gradient(semantic_loss(logits, labels, (48, 40), LossSettings({name: 1.0})), logits)
        for name in ("dice", "tversky")
    )
    assert torch.equal(dice[0], tversky[0]) and torch.equal(dice[1], tversky[1])


@every_case
@pytest.mark.parametrize("average", ["valid", "all"])
def test_without_valid_pixels_or_images_loss_and_gradient_are_zero(num_labels, options, average):
    logits, labels = random_inputs(num_labels)
    wanted = LossSettings(**{**options, "average": average})
    loss, gradient = value_and_gradient(
        semantic_loss(logits, torch.full_like(labels, IGNORED), (48, 40), wanted), logits
    )
    assert loss == 0 and not gradient.any()
    loss, gradient = value_and_gradient(semantic_loss(logits[:0], labels[:0], (48, 40), wanted), logits)
    assert loss == 0 and not gradient.any()


@every_case
def test_two_runs_give_the_same_bits(num_labels, options):
    logits, labels = random_inputs(num_labels, shape=(2, 16, 12), label_shape=(250, 190))
    wanted = LossSettings(**options)
    first, second = (value_and_gradient(semantic_loss(logits, labels, (256, 192), wanted), logits) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@every_case
def test_without_a_gradient_it_has_the_same_value(num_labels, options):
    logits, labels = random_inputs(num_labels)
    wanted = LossSettings(**options)
    with_gradient = semantic_loss(logits, labels, (48, 40), wanted).detach()
    torch.testing.assert_close(semantic_loss(logits.detach(), labels, (48, 40), wanted), with_gradient)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["focal", "dice", "ohem"])
def test_of_logits_that_are_not_finite_it_is_not_finite(name, value):
    logits, labels = random_inputs(5)
    logits.data[0, 1, 2, 2] = value
    assert not semantic_loss(logits, labels, (48, 40), LossSettings({name: 1.0})).isfinite()


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the system does not tell a peak of memory")
@pytest.mark.parametrize("weights", [{"cross_entropy": 1.0, "dice": 1.0, "focal": 1.0}, {"ohem": 1.0}])
def test_never_holds_the_full_resolution_logits(weights):
    def peak_after(side, size):
        logits, labels = torch.randn(1, 150, side, side, requires_grad=True), torch.zeros(1, size, size).long()
        Path("/proc/self/clear_refs").write_text("5")
        start = peak_memory()
        semantic_loss(logits, labels, (size, size), LossSettings(weights)).backward()
        return peak_memory() - start

    peak_after(8, 64)
    assert peak_after(32, 512) < 150 * 512 * 512 * 4 / 4


def test_ids_that_are_not_classes_are_refused():
    logits, labels = random_inputs(1)
    with pytest.raises(IndexError, match="not among the 2 classes"):
        semantic_loss(logits, labels.masked_fill(labels == 0, 2), (48, 40), LossSettings(**BINARY["dice"]))


@pytest.mark.parametrize("options", [SINGLE["sum"], BINARY["sum"]], ids=["several classes", "binary"])
def test_gradcheck(options):
    logits, labels = random_inputs(5 if options is SINGLE["sum"] else 1, torch.float64, (1, 3, 2), (7, 9))
    wanted = LossSettings(**options | {"ohem_threshold": None, "ohem_min_kept": 63})  # Chosen pixels stay chosen.
    assert torch.autograd.gradcheck(lambda maps: semantic_loss(maps, labels, (8, 9), wanted), logits)


def test_is_one_operator_for_torch_compile():
    logits, labels = random_inputs(5)
    wanted = LossSettings(**SINGLE["sum"])

    def loss(logits):
        return semantic_loss(2 * logits, labels, (48, 40), wanted)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(value_and_gradient(compiled(logits), logits), value_and_gradient(loss(logits), logits))


def test_autocast_does_not_lower_its_precision():
    logits, labels = random_inputs(5)
    wanted = LossSettings(**SINGLE["sum"])
    expected = semantic_loss(logits, labels, (48, 40), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(semantic_loss(logits, labels, (48, 40), wanted), expected)


@given(
    st.lists(st.floats(0, 2.0**100, width=32, allow_subnormal=False) | st.just(float("inf")), min_size=1, max_size=30),
    st.data(),
)
@settings(max_examples=50, deadline=None)
def test_kth_smallest(values, data):
    place = data.draw(st.integers(0, len(values) - 1))
    for dtype in (torch.float32, torch.float64):
        assert kth_smallest(torch.tensor(values, dtype=dtype), torch.tensor(place)) == sorted(values)[place]


def test_of_equal_losses_as_many_are_kept_as_were_asked_for():
    hardness = torch.tensor([[[1.0, 2.0, 1.0], [1.0, 0.0, 1.0]], [[1.0, 3.0, 0.5], [0.0, 1.0, 1.0]]])
    choose_hard(hardness, torch.tensor(10), None, 6)
    assert hardness.tolist() == [[[1, 1, 1], [1, 0, 1]], [[0, 1, 0], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("options", "num_labels", "message"),
    [
        ({"weights": {"lovasz": 1.0}}, 5, "must name some of cross_entropy, .* got 'lovasz'"),
        ({"weights": {}}, 5, "some loss a weight above 0"),
        ({"weights": {"dice": 0.0}}, 5, "some loss a weight above 0"),
        ({"weights": {"dice": float("nan")}}, 5, "the weight of dice must be a number from 0"),
        ({"weights": {"dice": -1}}, 5, "the weight of dice must be a number from 0"),
        ({"weights": {"dice": True}}, 5, "the weight of dice must be a number from 0"),
        ({"weights": [1.0]}, 5, "semantic_loss must hold weights"),
        ({"weights": {"binary_cross_entropy": 1.0}}, 150, "holds binary_cross_entropy, but with num_labels=150"),
        ({"weights": {"cross_entropy": 1.0}}, 1, "holds cross_entropy, but with num_labels=1"),
        ({"class_weights": [1.0, 2.0]}, 5, "class_weights must hold one for each of 5 classes, got 2"),
        ({"weights": {"focal": 1}, "class_weights": [1.0]}, 1, "one for background and foreground, got 1"),
        ({"class_weights": [0.0, 0.0]}, 2, "not all 0"),
        ({"class_weights": [1.0, float("inf")]}, 2, "class_weights must hold numbers from 0"),
        ({"class_weights": [1.0, -1.0]}, 2, "class_weights must hold numbers from 0"),
        ({"class_weights": []}, 2, "class_weights must hold numbers from 0"),
        ({"weights": {"dice": 1.0}, "class_weights": [1.0, 2.0]}, 2, "class_weights has no effect on dice"),
        ({"weights": {"focal": 1.0, "dice": 1}, "label_smoothing": 0.1}, 2, "no effect on focal and dice"),
        ({"label_smoothing": 1.5}, 2, "label_smoothing must be a number from 0 to 1"),
        ({"average": "mean"}, 2, "average must be one of valid, all"),
        ({"focal_gamma": -1}, 2, "focal_gamma must be a number from 0"),
        ({"focal_alpha": 0.5}, 2, "focal_alpha is for binary models"),
        ({"focal_alpha": 2}, 1, "focal_alpha must be a number from 0 to 1"),
        ({"tversky_beta": float("nan")}, 2, "tversky_beta must be a number from 0"),
        ({"ohem_threshold": 1.1}, 2, "ohem_threshold must be a number from 0 to 1"),
        ({"ohem_min_kept": 0}, 2, "ohem_min_kept must be a number of pixels from 1, got 0"),
    ],
)
def test_settings_that_cannot_be_used_are_named(options, num_labels, message):
    with pytest.raises(ValueError, match=message):
        LossSettings(**options).check_classes(num_labels)
