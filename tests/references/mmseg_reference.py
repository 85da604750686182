"""
What mmsegmentation 1.2.2 makes of photographs, with small models of random weights. Runs in an environment of its own,
where this package need not be: python mmseg_reference.py FOLDER, with photographs in FOLDER/photos. For each decoder
it writes a checkpoint and, as .npz, the label maps of all photographs by sliding windows (`single`), and by several
scales with mirror images (`multi`).
"""

import os
import sys
from pathlib import Path

import mmcv
import mmseg
import numpy as np
import torch
from mmengine.config import Config
from mmseg.models.segmentors.seg_tta import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules


CROP, STRIDE, CLASSES, SCALES = 64, 43, 11, (0.5, 1.0, 1.5)
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
CONFIGS = os.path.join(os.path.dirname(mmseg.__file__), ".mim/configs/_base_/models")


def build(decoder):
    """The published configuration made small, with BatchNorm in place of SyncBN."""
    config = Config.fromfile(f"{CONFIGS}/setr_{decoder}.py").model
    config.update(pretrained=None, data_preprocessor=None)
    config.backbone.update(embed_dims=64, num_layers=4, num_heads=4, img_size=(CROP, CROP), drop_rate=0.0)
    config.backbone.update(patch_bias=True, out_indices=(0, 1, 2, 3))
    if decoder == "mla":
        config.neck.update(in_channels=[64] * 4, out_channels=32, norm_cfg={"type": "BN"})
        config.decode_head.update(in_channels=(32,) * 4, mla_channels=16, channels=64)
    else:
        config.decode_head.update(in_channels=64, channels=32)
    for head in config.auxiliary_head:
        head.update(in_channels=32 if decoder == "mla" else 64, channels=32)
    for head in (config.decode_head, *config.auxiliary_head):
        head.update(num_classes=CLASSES, norm_cfg={"type": "BN"})
    config.test_cfg = {"mode": "slide", "crop_size": (CROP, CROP), "stride": (STRIDE, STRIDE)}
    return MODELS.build(config).eval()


def fill(model):
    """Random weights that keep activations near 1."""
    generator = torch.Generator().manual_seed(7)
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.2 * noise.abs())
        elif name.endswith(("running_mean", "bias")):
            tensor.copy_(0.1 * noise)
        elif tensor.ndim == 1:
            tensor.copy_(1 + 0.1 * noise)
        elif tensor.ndim:
            tensor.copy_(noise * (0.5 if "embed" in name and tensor.ndim == 3 else tensor[0].numel() ** -0.5))


def spread_classes(model, images):
    """Scales the classifier so that each class wins somewhere."""
    head = model.decode_head
    classifier = head.cls if hasattr(head, "cls") else head.conv_seg
    logits = model.encode_decode(images, [{"img_shape": (CROP, CROP)}] * len(images))
    deviation, mean = logits.std((0, 2, 3)), logits.mean((0, 2, 3))
    classifier.weight.div_(deviation[:, None, None, None])
    classifier.bias.copy_((classifier.bias - mean) / deviation)


def normalized(image):
    return torch.from_numpy(((image - MEAN) / STD).astype(np.float32)).permute(2, 0, 1).contiguous()


def sample(image, size, flip):
    meta = {"ori_shape": size, "img_shape": tuple(image.shape[-2:]), "flip": flip, "padding_size": [0] * 4}
    result = SegDataSample()
    result.set_metainfo(dict(meta, flip_direction="horizontal" if flip else None, img_path=""))
    return result


def label_maps(model, photo):
    size = photo.shape[:2]
    image = normalized(mmcv.imrescale(photo, (4 * CROP, CROP)))
    single = model.predict(image[None], [sample(image, size, False)])[0].pred_sem_seg.data[0]
    views = []
    for scale in SCALES:
        short = max(CROP, int(scale * CROP))
        long = short * max(size) / min(size)
        resized = mmcv.imrescale(photo, (long, short))
        for flip in (False, True):
            image = normalized(mmcv.imflip(resized) if flip else resized)
            views.append(model.predict(image[None], [sample(image, size, flip)]))
    multi = SegTTAModel(module=model).merge_preds(list(zip(*views)))[0].pred_sem_seg.data
    return single.numpy().astype(np.uint8), multi.reshape(size).numpy().astype(np.uint8)


def main(folder):
    register_all_modules(False)
    torch.set_num_threads(1)
    photos = {path.stem: mmcv.imread(str(path), channel_order="rgb") for path in sorted(folder.glob("photos/*.png"))}
    crops = torch.stack([normalized(mmcv.imresize(photo, (CROP, CROP))) for photo in photos.values()])
    for decoder in ("naive", "pup", "mla"):
        model = build(decoder)
        with torch.no_grad():
            fill(model)
            spread_classes(model, crops)
            results = {name: label_maps(model, photo) for name, photo in photos.items()}
        torch.save({"meta": {}, "state_dict": model.state_dict()}, folder / f"{decoder}.pth")
        np.savez(folder / f"{decoder}_single.npz", **{name: maps[0] for name, maps in results.items()})
        np.savez(folder / f"{decoder}_multi.npz", **{name: maps[1] for name, maps in results.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
