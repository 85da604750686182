import numpy as np
import pytest
import torch
from PIL import Image

from setr_hf.transforms import RandomScale, to_tv_tensors, training_transform


MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


def sample(height, width):
    """An image whose red channel tells the label of each pixel: 40 × label."""
    labels = np.random.default_rng(0).integers(0, 5, (height // 8, width // 8), dtype=np.uint8)
    labels = labels.repeat(8, axis=0).repeat(8, axis=1)
    pixels = np.stack([labels * 40, labels * 0, labels * 0], axis=-1)
    return to_tv_tensors(Image.fromarray(pixels), labels)


@pytest.mark.parametrize("size", [(64, 96), (40, 40), (200, 120)])
def test_crops_have_their_size_and_labels_stay_ids(size):
    transform = training_transform((64, 80), (0.5, 2.0), None, MEAN, STD)
    for _ in range(20):
        image, labels = transform(*sample(*size))
        assert image.shape == (3, 64, 80)
        assert image.dtype == torch.float32
        assert labels.shape == (64, 80)
        assert set(labels.unique().tolist()) <= {0, 1, 2, 3, 4, 255}


def test_what_the_image_does_not_fill_has_one_colour_and_ignored_labels():
    transform = training_transform((64, 64), (1.0, 1.0), None, MEAN, STD)
    image, labels = transform(*sample(32, 32))
    assert (labels == 255).sum() == 64 * 64 - 32 * 32
    filled = image[:, labels == 255]
    assert torch.equal(filled, filled[:, :1].expand_as(filled))


def test_image_and_labels_move_together():
    torch.manual_seed(0)
    pairs = [RandomScale((0.5, 2.0), None)(*sample(64, 96)) for _ in range(20)]
    for image, labels in pairs:
        assert image.shape[-2:] == labels.shape
        # Bilinear and nearest resizing differ only next to the blocks' edges.
        assert (image[0] == labels * 40).float().mean() > 0.6


def test_ratios_are_uniform_around_the_short_side():
    torch.manual_seed(0)
    scale = RandomScale((0.5, 2.0), {"shortest_edge": 32})
    heights = [scale(*sample(64, 96))[0].shape[-2] for _ in range(400)]
    assert min(heights) >= 16
    assert max(heights) <= 64
    assert np.mean(heights) == pytest.approx(40, abs=2)


def test_16_bit_photographs_are_trained_on_as_they_are_segmented():
    gray = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    image, _ = to_tv_tensors(Image.fromarray(gray), np.zeros((8, 8), dtype=np.uint8))
    assert image.dtype == torch.uint8
    assert image[0].flatten().tolist() == [round(value / 257) for value in gray.flatten().tolist()]
