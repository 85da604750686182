"""The speed of mmsegmentation's augmentation, for `setr-hf benchmark augmentation`, in a Python of its own, which need
not have this package:

    python mmseg_augmentation.py SETTINGS

where SETTINGS is JSON: the lists `photos` and `annotations` (files; class ids, 255 ignored), `crop_size` (height,
width), `scale` (long, short side), `scale_range`, `mean` and `std` (of intensities of 0 to 255). For each line on the
standard input, `files` or `arrays`, it transforms every photograph once, with or without reading it, and prints the
seconds that took.
"""

import json
import sys
import time

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmseg.utils import register_all_modules


def build_pipelines(settings):
    """Reading, and all that comes after it, as in the published training configurations."""
    height, width = settings["crop_size"]
    scale, ratios = tuple(settings["scale"]), tuple(settings["scale_range"])
    reading = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
    augmentation = [
        {"type": "RandomResize", "scale": scale, "ratio_range": ratios, "keep_ratio": True},
        {"type": "RandomCrop", "crop_size": (height, width), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "Normalize", "mean": settings["mean"], "std": settings["std"], "to_rgb": True},
        {"type": "Pad", "size": (width, height), "pad_val": {"img": 0, "seg": 255}},
    ]
    return Compose(reading), Compose(augmentation)


def to_tensors(results):
    """What a model is trained on: channels first, ids of 64 bits."""
    image = torch.from_numpy(np.ascontiguousarray(results["img"].transpose(2, 0, 1)))
    return image, torch.from_numpy(results["gt_seg_map"].astype(np.int64))


def main(settings):
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    register_all_modules()
    read, augment = build_pipelines(settings)
    files = [
        {"img_path": photo, "seg_map_path": annotation, "seg_fields": [], "reduce_zero_label": False}
        for photo, annotation in zip(settings["photos"], settings["annotations"])
    ]
    arrays = [read({**sample, "seg_fields": []}) for sample in files]
    for line in sys.stdin:
        start = time.process_time()
        for sample in files if line.strip() == "files" else arrays:
            # Transforms write into the dictionary and its lists.
            results = {**sample, "seg_fields": list(sample["seg_fields"])}
            to_tensors(augment(read(results) if line.strip() == "files" else results))
        print(time.process_time() - start, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
