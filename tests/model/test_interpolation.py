import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from setr_hf.model.interpolation_setr import interpolation_matrix, source_range


LENGTHS = st.integers(1, 150)


def test_weights_worked_out_by_hand():
    doubled = interpolation_matrix(2, 4)
    assert doubled.tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]


@pytest.mark.parametrize(("size", "new_size"), [((32, 32), (512, 512)), ((17, 1), (40, 30)), ((50, 61), (7, 60))])
def test_resizing_by_matrices_is_that_of_interpolate(size, new_size):
    maps = torch.randn(3, *size, dtype=torch.float64, requires_grad=True)
    expected = F.interpolate(maps[None], size=new_size, mode="bilinear", align_corners=False)[0]
    gradient = torch.randn_like(expected)
    (expected_gradient,) = torch.autograd.grad(expected, maps, gradient)
    rows, columns = (interpolation_matrix(*lengths, torch.float64) for lengths in zip(size, new_size))
    torch.testing.assert_close(rows @ maps @ columns.T, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rows.T @ gradient @ columns, expected_gradient, rtol=1e-12, atol=1e-12)


@settings(max_examples=200, deadline=None)
@given(LENGTHS, LENGTHS, st.booleans(), st.data())
def test_new_samples_come_from_the_source_range_alone(length, new_length, align_corners, data):
    start = data.draw(st.integers(0, new_length - 1))
    stop = data.draw(st.integers(start + 1, new_length))
    first, last = source_range(start, stop, length, new_length, align_corners)
    assert 0 <= first < last <= length
    rows = interpolation_matrix(length, new_length, align_corners=align_corners)[start:stop]
    torch.testing.assert_close(rows[:, first:last].sum(1), torch.ones(stop - start))
    used = rows.sum(0).nonzero()
    # Nothing is left out, and at most one sample on either side comes on top.
    assert first <= used.min() <= first + 1 and last - 2 <= used.max() < last


def test_a_quarter_of_the_rows_of_a_map_resized_by_16_needs_a_quarter_of_its_rows():
    assert source_range(128, 256, 32, 512) == (7, 17)
