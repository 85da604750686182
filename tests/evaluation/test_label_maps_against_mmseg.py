"""
From the photo to the label map, ours against mmsegmentation's, run live:

    MMSEG_PYTHON=path/to/python SETR_HF_DATA=path/to/data \\
        python -m pytest tests/evaluation/test_label_maps_against_mmseg.py

where that Python has mmsegmentation 1.2.2.
"""

import os
import subprocess

import numpy as np
import pytest
from paths import REFERENCES
from PIL import Image

from setr_hf import SetrImageProcessor
from setr_hf.checkpoints.convert import load_original
from setr_hf.inference.sliding_windows import segment


CROP, STRIDE, SCALES = 64, 43, (0.5, 1.0, 1.5)
# Width and height: landscape, portrait, smaller than the crop, not a multiple of the patch, and extreme aspect ratios.
SIZES = [(160, 120), (120, 160), (50, 40), (33, 90), (101, 77), (700, 60), (60, 500)]


@pytest.fixture(scope="module")
def reference(photos, tmp_path_factory):
    """The folder that `mmseg_reference.py` fills, with real photos of several sizes."""
    python = os.environ.get("MMSEG_PYTHON")
    if not python:
        pytest.skip("set MMSEG_PYTHON to a Python that has mmsegmentation 1.2.2 to run this test")
    folder = tmp_path_factory.mktemp("mmseg")
    (folder / "photos").mkdir()
    for number, size in enumerate(SIZES):
        photo = Image.open(photos[number % len(photos)]).convert("RGB")
        photo.resize(size, Image.Resampling.LANCZOS).save(folder / "photos" / f"photo{number}.png")
    subprocess.run([python, REFERENCES / "mmseg_reference.py", folder], check=True)
    return folder


@pytest.mark.parametrize("protocol", ["single", "multi"])
@pytest.mark.parametrize("decoder", ["naive", "pup", "mla"])
def test_label_maps_are_those_of_mmsegmentation(reference, decoder, protocol):
    overrides = {"num_attention_heads": 4}
    overrides["auxiliary_out_indices"] = [1, 2, 3, 4] if decoder == "mla" else [1, 2, 3]
    model, _, _ = load_original(reference / f"{decoder}.pth", overrides=overrides)
    processor = SetrImageProcessor(
        do_split_image=True,
        size={"shortest_edge": CROP, "longest_edge": 4 * CROP},
        crop_size=CROP,
        stride=STRIDE,
        antialias=False,
    )
    expected = np.load(reference / f"{decoder}_{protocol}.npz")
    agreeing, total, classes = 0, 0, set()
    for name in expected:
        photo = Image.open(reference / "photos" / f"{name}.png")
        label_map = segment(model, processor, [photo], SCALES if protocol == "multi" else None)[0].numpy()
        agreeing += (label_map == expected[name]).sum()
        total += label_map.size
        classes |= set(np.unique(label_map).tolist())
    assert len(classes) > 5
    assert agreeing / total >= 0.9999
