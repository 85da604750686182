"""A small model with its image processor, and what is true of every label map."""

from functools import cache

import numpy as np
import torch
from PIL import Image

from setr_hf import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor


FIELDS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "decoder_type": "naive",
    "decoder_hidden_size": 8,
    "auxiliary_out_indices": [1],
    "id2label": {"0": "sky", "1": "tree", "2": "road"},
}
SETTINGS = {
    "size": {"shortest_edge": 32, "longest_edge": 128},
    "crop_size": {"height": 32, "width": 32},
    "stride": 21,
    "do_split_image": True,
    "antialias": False,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@cache
def small_model():
    torch.manual_seed(0)
    return SetrForSemanticSegmentation(SetrConfig(**FIELDS)).eval()


@cache
def small_processor():
    return SetrImageProcessor(**SETTINGS)


def noise(random, height, width, channels=3):
    """Pixels `(height, width, channels)`, or without channels for 1."""
    generator = np.random.default_rng(random.randrange(2**31))
    shape = (height, width) if channels == 1 else (height, width, channels)
    return generator.integers(0, 256, shape, np.uint8)


def check_label_map(label_map, photo: Image.Image, num_labels=3):
    assert tuple(label_map.shape) == (photo.height, photo.width)
    assert label_map.dtype == torch.int64 and label_map.min() >= 0 and label_map.max() < num_labels
