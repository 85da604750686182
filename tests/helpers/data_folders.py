"""Folders of noise with annotations, for jobs that read data."""

import json

import numpy as np
from PIL import Image


def write_data(folder, count, height, width, names):
    """Writes `count` photos with annotations of the classes `names` for each of the splits "train" and "val"."""
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "annotations"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"images/{split}/{index}.jpg")
            Image.fromarray(pixels[..., 0] % len(names)).save(folder / f"annotations/{split}/{index}.png")
    (folder / "labels.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
