"""Scores and label maps in tiles, against the plain definition: windows at full size are added and resized."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.image_utils import SizeDict

from setr_hf import SetrImageProcessor
from setr_hf.model import label_maps_setr
from setr_hf.model.image_processing_setr import window_offsets
from setr_hf.model.label_maps_setr import TileSize, grid_of, kept, label_map_of, mean_probability_tiles, score_tiles


CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """So that small images have many, and every kind of border between them."""
    monkeypatch.setattr(label_maps_setr, "CPU_TILE", TileSize(strip_rows=11, rows=4, columns=7))


def expected_scores(logits, offsets, size, is_mirrored=False):
    """The definition, in fp64 and at the size of the image."""
    logits = logits.double()
    if offsets is not None:
        height, width = offsets[0][4:]
        total, counts = torch.zeros(logits.shape[1], height, width, dtype=torch.float64), torch.zeros(height, width)
        for window, (top, left, high, wide, _, _) in zip(logits, offsets):
            if window.shape[1] < high or window.shape[2] < wide:
                window = F.interpolate(window[None], size=(high, wide), mode="bilinear", align_corners=False)[0]
            total[:, top : top + high, left : left + wide] += window[:, :high, :wide]
            counts[top : top + high, left : left + wide] += 1
        logits = total / counts
    if is_mirrored:
        logits = logits.flip(-1)
    return F.interpolate(logits[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def tiled_scores(logits, offsets, size, is_mirrored=False):
    scores = torch.full((logits.shape[-3], *size), torch.nan)
    label_map = label_map_of(kept(score_tiles(*grid_of(logits, offsets, size, is_mirrored)), scores), size, CPU)
    assert torch.equal(label_map, scores.argmax(0)), "the first of equals"
    return scores


def offsets_over(height, width, crop, stride):
    windows = window_offsets(height, width, SizeDict(height=crop[0], width=crop[1]), stride)
    return [[*window, height, width] for window in windows]


SIDES = st.integers(1, 60)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.data())
def test_any_windows_at_any_resolution_give_the_scores_of_the_definition(image_size, size, data):
    crop = data.draw(st.tuples(st.integers(2, 40), st.integers(2, 40)), "crop")
    offsets = offsets_over(*image_size, crop, data.draw(st.integers(max(1, min(crop) // 5), min(crop)), "stride"))
    # Of lower resolution in both directions or one, or of the full one with what fills small windows up.
    shape = data.draw(st.one_of(st.just(crop), st.tuples(st.integers(1, crop[0]), st.integers(1, crop[1]))), "shape")
    order = data.draw(st.permutations(range(len(offsets))) if len(offsets) < 9 else st.just(range(len(offsets))))
    size = data.draw(st.sampled_from([size, image_size]), "size")
    is_mirrored = data.draw(st.booleans(), "mirrored")
    offsets = [offsets[index] for index in order]
    logits = torch.randn(len(offsets), 3, *shape)
    scores = tiled_scores(logits, offsets, size, is_mirrored)
    torch.testing.assert_close(scores, expected_scores(logits, offsets, size, is_mirrored).float(), rtol=0, atol=1e-4)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES))
def test_whole_images_are_resized_to_any_size(shape, size):
    logits = torch.randn(4, *shape)
    torch.testing.assert_close(
        tiled_scores(logits, None, size), expected_scores(logits, None, size).float(), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_in_fp32_whatever_autocast_and_the_backends_admit(dtype):
    """0.1 % of a logit of 1000 is 1, many times what fp32 loses and less than bf16 does."""
    offsets = offsets_over(40, 50, (32, 32), 11)
    logits = (1000 + torch.randn(len(offsets), 3, 8, 8)).to(dtype)
    expected = expected_scores(logits, offsets, (33, 61)).float()
    backend = torch.backends.mkldnn.matmul
    precision, backend.fp32_precision = backend.fp32_precision, "bf16"
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = tiled_scores(logits, offsets, (33, 61))
            assert torch.is_autocast_enabled("cpu") and backend.fp32_precision == "bf16"
    finally:
        backend.fp32_precision = precision
    torch.testing.assert_close(scores, expected, rtol=0, atol=0.01)


def test_of_equal_classes_the_first_wins(monkeypatch):
    """Some of 150 classes are copies of others, at all places that they may have in a vector of the processor."""
    monkeypatch.undo()
    offsets = offsets_over(100, 130, (64, 64), 43)
    logits = torch.randn(len(offsets), 50, 8, 8)
    label_map = label_map_of(score_tiles(*grid_of(logits.repeat(1, 3, 1, 1), offsets, (100, 130))), (100, 130), CPU)
    assert label_map.max() < 50
    assert torch.equal(label_map, expected_scores(logits, offsets, (100, 130)).argmax(0))


def test_strips_of_pixels_need_only_their_rows_of_windows():
    offsets = offsets_over(90, 50, (32, 32), 21)
    logits, grid = grid_of(torch.randn(len(offsets), 5, 8, 8), offsets, (90, 50))
    expected = label_map_of(score_tiles(logits, grid), (90, 50), CPU)
    # Windows begin at 0, 21, 42 and 58.
    for strip, used in ((slice(32, 42), [1]), (slice(42, 53), [2, 1]), (slice(58, 90), [2, 3])):
        labels = torch.full((90, 50), -1)
        for rows, columns, scores in score_tiles(logits[used], grid, strip):
            labels[rows, columns] = scores.argmax(-1)
        assert torch.equal(labels[strip], expected[strip])
        assert (labels >= 0).sum() == 50 * (strip.stop - strip.start)


def test_probabilities_are_averaged_over_views_of_their_own_sizes():
    size, views, expected = (37, 53), [], 0
    for weight, image_size, is_mirrored in ((1, (40, 60), False), (1, (40, 60), True), (3, (64, 96), False)):
        offsets = offsets_over(*image_size, (32, 32), 21)
        logits = torch.randn(len(offsets), 6, 8, 8)
        views.append(score_tiles(*grid_of(logits, offsets, size, is_mirrored)))
        expected = expected + weight * expected_scores(logits, offsets, size, is_mirrored).softmax(0) / 5
    probabilities = torch.full((6, *size), torch.nan)
    for _ in kept(mean_probability_tiles(views, [1, 1, 3]), probabilities):
        pass
    torch.testing.assert_close(probabilities, expected.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([[0, 0, 32, 32], [0, 18, 32, 32], [8, 0, 32, 32]], "the 3 windows are not a grid of 2 rows and 2 columns"),
        ([[0, 0, 32, 32], [0, 18, 32, 32], [8, 0, 32, 32], [8, 18, 32, 32], [8, 18, 32, 32]], "each window once"),
        ([[0, 0, 40, 50], [0, 0, 8, 8], [0, 0, 40, 8], [0, 0, 8, 50]], "all larger than their logits or none"),
        ([[0, 0, 40, 20], [0, 19, 40, 30], [0, 2, 40, 20]], "leave gaps"),
    ],
)
def test_windows_that_are_not_a_grid_are_refused(offsets, message):
    patch_offsets = torch.tensor([[*offset, 40, 50] for offset in offsets])
    outputs = SimpleNamespace(logits=torch.zeros(1, len(offsets), 3, 8, 8), patch_offsets=patch_offsets[None])
    with pytest.raises(ValueError, match=f"patch_offsets of image 0: .*{message}"):
        SetrImageProcessor().post_process_semantic_segmentation(outputs)


class LargestTensor(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


def test_nothing_is_held_at_the_size_of_the_photo_but_its_label_map(monkeypatch):
    monkeypatch.undo()
    offsets = offsets_over(128, 171, (128, 128), 85)
    outputs = SimpleNamespace(logits=torch.randn(1, len(offsets), 150, 32, 32), patch_offsets=torch.tensor([offsets]))
    with LargestTensor() as largest:
        SetrImageProcessor().post_process_semantic_segmentation(outputs, [(1200, 1600)])
    assert largest.numel == 1200 * 1600
