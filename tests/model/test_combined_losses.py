"""Weighted sums of losses computed in tiles equal plain losses at full resolution, in value and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from references.plain_losses import plain_semantic_loss
from setr_hf.model import losses_setr
from setr_hf.model.combined_losses_setr import semantic_loss
from setr_hf.model.loss_settings_setr import LossSettings


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
