"""The speed and memory of mmsegmentation's SETR, in a Python of its own, which need not have this package:

    python mmseg_networks.py SETTINGS

where SETTINGS is JSON: `decoder` (naive, pup or mla), `hidden_size`, `num_layers`, `num_heads`, `out_indices` (layers
from 0), `image_size`, `batch_size`, `num_classes`, `dtype` (float32 or bfloat16) and `job`: `decode` for the decoder
alone, from feature maps to logits; `forward` for images to logits; `train` for one step, forward and backward, with
all heads. For each line on the standard input it does the job once and prints the seconds of processor time that took
and the most memory in MB that the process has held so far.
"""

import json
import os
import resource
import sys
import time

import mmseg
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules


CONFIGS = os.path.join(os.path.dirname(mmseg.__file__), ".mim/configs/_base_/models")


def build(settings):
    """The published configuration in the given size, with BatchNorm in place of SyncBN."""
    decoder, hidden_size, image_size = (settings[name] for name in ("decoder", "hidden_size", "image_size"))
    config = Config.fromfile(f"{CONFIGS}/setr_{decoder}.py").model
    config.update(pretrained=None, data_preprocessor=None)
    config.backbone.update(embed_dims=hidden_size, num_layers=settings["num_layers"], num_heads=settings["num_heads"])
    config.backbone.update(img_size=(image_size,) * 2, out_indices=settings["out_indices"], drop_rate=0.0)
    if decoder == "mla":
        config.neck.update(in_channels=[hidden_size] * 4, norm_cfg={"type": "BN"})
    else:
        for head in (config.decode_head, *config.auxiliary_head):
            head.update(in_channels=hidden_size)
    for head in (config.decode_head, *config.auxiliary_head):
        head.update(num_classes=settings["num_classes"], norm_cfg={"type": "BN"})
    return MODELS.build(config)


def job(model, settings):
    """The function that does `settings["job"]` once."""
    size = (settings["image_size"],) * 2
    images = torch.randn(settings["batch_size"], 3, *size, dtype=getattr(torch, settings["dtype"]))
    if settings["job"] == "train":
        labels = torch.randint(0, settings["num_classes"], (len(images), 1, *size))
        samples = [SegDataSample(gt_sem_seg=PixelData(data=label_map)) for label_map in labels]

        def train():
            model.zero_grad()
            losses = model.loss(images, samples)
            sum(value for name, value in losses.items() if "loss" in name).backward()

        return train
    if settings["job"] == "forward":
        return lambda: model.encode_decode(images, [{"img_shape": size}])
    with torch.no_grad():
        layers = model.backbone(images)
    # The neck belongs to mla's decoder.
    return lambda: model.decode_head(model.neck(layers) if model.with_neck else layers)


def main(settings):
    torch.set_num_threads(1)
    register_all_modules(False)
    model = build(settings).to(getattr(torch, settings["dtype"])).train(settings["job"] == "train")
    run = job(model, settings)
    with torch.set_grad_enabled(settings["job"] == "train"):
        for _ in sys.stdin:
            start = time.process_time()
            run()
            seconds = time.process_time() - start
            print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
