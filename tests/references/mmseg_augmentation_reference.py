"""
What mmsegmentation 1.2.2's augmentation makes of a photograph. Runs in an environment of its own, where this package
need not be: python mmseg_augmentation_reference.py FOLDER, with `photo.png`, `labels.png` and `settings.json` there.
It writes `forced.npz`, crops with the parameters that `settings.json` lists, and `draws.npz`, statistics of crops with
parameters that mmsegmentation draws itself.
"""

import json
import sys
from pathlib import Path

import mmcv
import numpy as np
from mmseg.datasets.transforms import transforms as mmseg_transforms
from mmseg.registry import TRANSFORMS
from mmseg.utils import register_all_modules


class ScriptedRandom:
    """Stands in for `numpy.random` within PhotoMetricDistortion: hands out given values in order."""

    def __init__(self, params):
        # Tosses of coins, and what is drawn where they come up, in mmsegmentation's order; it puts contrast first
        # where its `mode` is 1.
        contrast = [0] if params["contrast"] is None else [1, params["contrast"]]
        toss = {key: [0] if params[key] is None else [1, params[key]] for key in ("brightness", "saturation", "hue")}
        first = params["contrast_first"]
        self.values = [
            *toss["brightness"],
            int(first),
            *(contrast if first else []),
            *toss["saturation"],
            *toss["hue"],
            *([] if first else contrast),
        ]

    def randint(self, *_):
        return self.values.pop(0)

    uniform = randint


def sample(photo, labels):
    return {"img": photo, "gt_seg_map": labels, "seg_fields": ["gt_seg_map"], "img_shape": photo.shape[:2]}


def main(folder):
    register_all_modules()
    settings = json.loads((folder / "settings.json").read_text())
    photo = mmcv.imread(str(folder / "photo.png"))
    labels = mmcv.imread(str(folder / "labels.png"), flag="unchanged")
    height, width = settings["crop_size"]
    resize, crop, flip, distort, normalize, pad = [
        TRANSFORMS.build(transform)
        for transform in (
            {
                "type": "RandomResize",
                "scale": tuple(settings["scale"]),
                "ratio_range": tuple(settings["scale_range"]),
                "keep_ratio": True,
            },
            {"type": "RandomCrop", "crop_size": (height, width), "cat_max_ratio": settings["category_max_ratio"]},
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "PhotoMetricDistortion"},
            {"type": "Normalize", "mean": settings["mean"], "std": settings["std"], "to_rgb": True},
            {"type": "Pad", "size": (width, height), "pad_val": {"img": 0, "seg": 255}},
        )
    ]

    np.random.seed(0)
    draws = {key: [] for key in ("height", "top", "left", "flip", "dominant", "channels")}
    window = crop.crop_bbox

    def remember_window(results):
        bounds = window(results)
        draws["top"].append(bounds[0])
        draws["left"].append(bounds[2])
        return bounds

    crop.crop_bbox = remember_window
    for _ in range(settings["num_draws"]):
        results = resize(sample(photo, labels))
        draws["height"].append(results["img"].shape[0])
        results = distort(flip(crop(results)))
        draws["flip"].append(results["flip"])
        counts = np.bincount(results["gt_seg_map"].ravel(), minlength=256)[:255]
        draws["dominant"].append(counts.max() / counts.sum())
        pixels = results["img"][..., ::-1].reshape(-1, 3)
        draws["channels"].append([*pixels.mean(axis=0), *pixels.var(axis=0)])
    np.savez(folder / "draws.npz", **draws)

    crops = {}
    for index, params in enumerate(settings["forced"]):
        resize._random_scale = lambda params=params: tuple(params["scale"])
        crop.crop_bbox = lambda results, params=params: params["window"]
        flip.prob = float(params["flip"])
        mmseg_transforms.random = ScriptedRandom(params)
        results = pad(normalize(distort(flip(crop(resize(sample(photo, labels)))))))
        assert not mmseg_transforms.random.values
        crops[f"image{index}"] = results["img"].transpose(2, 0, 1)
        crops[f"labels{index}"] = results["gt_seg_map"]
    np.savez(folder / "forced.npz", **crops)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
