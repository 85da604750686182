"""The loss computed in tiles of pixels is that of logits resized to the labels, and so is its gradient."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from setr_hf.model import losses_setr
from setr_hf.model.losses_setr import segmentation_loss


IGNORED = 255


def expected_loss(logits, labels, size, **options):
    resized = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
    resized = resized[..., : labels.shape[1], : labels.shape[2]]
    return F.cross_entropy(resized, labels, ignore_index=IGNORED, **options)


def random_inputs(shape, label_shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64).mul(4).to(dtype).requires_grad_()
    labels = torch.randint(0, shape[1], label_shape, generator=generator)
    return logits, labels.masked_fill(torch.rand(label_shape, generator=generator) < 0.2, IGNORED)


def value_and_gradient(loss, logits):
    return loss.detach(), *torch.autograd.grad(loss, logits)


side, new_side = st.integers(1, 9), st.integers(1, 40)


@given(
    side, side, new_side, new_side, st.integers(0, 7), st.integers(1, 5), st.booleans(), st.sampled_from([0.0, 0.1])
)
@settings(max_examples=40, deadline=None)
def test_equals_cross_entropy_of_the_resized_logits(h, w, height, width, cut, num_labels, weighted, smoothing):
    label_shape = (2, max(height - cut, 1), max(width - cut, 1))
    logits, labels = random_inputs((2, num_labels, h, w), label_shape, torch.float64)
    labels[0, 0, 0] = 0
    weight = torch.arange(1, num_labels + 1, dtype=torch.float64) if weighted else None
    options = {"weight": weight, "label_smoothing": smoothing}
    expected = value_and_gradient(expected_loss(logits, labels, (height, width), **options), logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses_setr, "CPU_TILE_SCORES", 64)  # Several tiles, of several shapes.
        patch.setattr(losses_setr, "TILE_ROWS", 3)
        loss = segmentation_loss(logits, labels, (height, width), IGNORED, **options)
        torch.testing.assert_close(value_and_gradient(loss, logits), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sums_in_fp32_and_returns_the_gradient_in_the_dtype_of_the_logits(dtype):
    logits, labels = random_inputs((2, 7, 6, 5), (2, 50, 60), dtype)
    loss, gradient = value_and_gradient(segmentation_loss(logits, labels, (64, 64), IGNORED), logits)
    exact = logits.detach().double().requires_grad_()
    expected, exact_gradient = value_and_gradient(expected_loss(exact, labels, (64, 64)), exact)
    assert (loss.dtype, gradient.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    tolerance = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert (gradient.double() - exact_gradient).norm() <= tolerance * exact_gradient.norm()


def test_two_runs_give_the_same_bits():
    logits, labels = random_inputs((2, 20, 16, 12), (2, 250, 190))
    first, second = (
        value_and_gradient(segmentation_loss(logits, labels, (256, 192), IGNORED), logits) for _ in range(2)
    )
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("average", ["valid", "all"])
def test_without_valid_pixels_loss_and_gradient_are_zero(average):
    logits, labels = random_inputs((2, 3, 4, 4), (2, 16, 16))
    loss = segmentation_loss(logits, labels.fill_(IGNORED), (16, 16), IGNORED, average)
    assert loss == 0 and not torch.autograd.grad(loss, logits)[0].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_of_logits_that_are_not_finite_it_is_not_finite(value):
    logits, labels = random_inputs((1, 3, 4, 4), (1, 16, 16))
    logits.data[0, 1, 2, 2] = value
    assert not segmentation_loss(logits, labels, (16, 16), IGNORED).isfinite()


def test_far_apart_scores_do_not_overflow():
    logits, labels = random_inputs((1, 4, 3, 3), (1, 20, 20))
    logits.data *= 1e4
    expected = value_and_gradient(expected_loss(logits, labels, (20, 20)), logits)
    actual = value_and_gradient(segmentation_loss(logits, labels, (20, 20), IGNORED), logits)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_gradcheck():
    logits, labels = random_inputs((1, 3, 3, 2), (1, 7, 9), torch.float64)
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    options = {"weight": weight, "label_smoothing": 0.1}
    assert torch.autograd.gradcheck(lambda maps: segmentation_loss(maps, labels, (8, 9), IGNORED, **options), logits)


def test_a_scaled_loss_has_the_scaled_gradient():
    logits, labels = random_inputs((1, 3, 4, 4), (1, 16, 16))
    once, scaled = (
        torch.autograd.grad(factor * segmentation_loss(logits, labels, (16, 16), IGNORED), logits)[0]
        for factor in (1, 2**16)
    )
    assert torch.equal(scaled, once * 2**16)


def test_is_one_operator_for_torch_compile():
    logits, labels = random_inputs((2, 3, 4, 4), (2, 30, 30))

    def loss(logits):
        return segmentation_loss(2 * logits, labels, (32, 32), IGNORED)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(value_and_gradient(compiled(logits), logits), value_and_gradient(loss(logits), logits))


def test_autocast_does_not_lower_its_precision():
    logits, labels = random_inputs((2, 3, 4, 4), (2, 30, 30))
    expected = segmentation_loss(logits, labels, (32, 32), IGNORED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(segmentation_loss(logits, labels, (32, 32), IGNORED), expected)


def test_never_holds_the_full_resolution_logits():
    script = """if True:
        import resource, torch
        from setr_hf.model.losses_setr import segmentation_loss
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        def step(side, size):
            logits = torch.randn(1, 150, side, side, requires_grad=True)
            segmentation_loss(logits, torch.zeros(1, size, size, dtype=torch.long), (size, size), 255).backward()
        step(8, 64)
        before = peak()
        step(32, 512)
        print(peak() - before)
    """
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 150 * 512 * 512 * 4 / 4
