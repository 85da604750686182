"""What mmsegmentation 1.2.2 does in the benchmarks. `worker.py` runs it in a Python of its own, which need not have
this package; each code takes the setting of the case of its name in `setr_hf.benchmarks`.
"""

import os
import warnings
from pathlib import Path

import cv2
import mmcv
import mmseg
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.models.segmentors.seg_tta import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules


CONFIGS = os.path.join(os.path.dirname(mmseg.__file__), ".mim/configs/_base_/models")
WIDTHS = {"large": 1024, "base": 768, "tiny": 192}
DEPTHS = {"large": 24, "base": 12, "tiny": 12}
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])

# It warns of what it does itself.
warnings.simplefilter("ignore")
register_all_modules()


def build(setting):
    """The published configuration at the setting's size, without dropout, with BatchNorm in place of SyncBN."""
    decoder, size = setting["decoder"], setting["size"]
    width, depth = WIDTHS[setting["model_size"]], DEPTHS[setting["model_size"]]
    config = Config.fromfile(f"{CONFIGS}/setr_{decoder}.py").model
    config.update(pretrained=None, data_preprocessor=None)
    config.backbone.update(
        embed_dims=width, num_layers=depth, num_heads=width // 64, img_size=(size, size), drop_rate=0.0,
        patch_bias=True, out_indices=tuple(depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)),
    )  # fmt: skip
    if decoder == "mla":
        config.neck.update(in_channels=[width] * 4, norm_cfg={"type": "BN"})
    else:
        config.decode_head.update(in_channels=width)
    for head in (config.decode_head, *config.auxiliary_head):
        head.update(num_classes=setting["num_labels"], norm_cfg={"type": "BN"})
        if decoder != "mla":
            head.update(in_channels=width)
    config.test_cfg = {"mode": "slide", "crop_size": (size, size), "stride": (size * 2 // 3, size * 2 // 3)}
    return MODELS.build(config)


def dtype_of(setting):
    return getattr(torch, setting["dtype"])


def build_to_infer(setting):
    return build(setting).eval().requires_grad_(False).to(setting["device"], dtype_of(setting))


def decoder(setting):
    model = build_to_infer(setting)
    width, side = WIDTHS[setting["model_size"]], setting["size"] // 16
    maps = [torch.randn(1, width, side, side).to(setting["device"], dtype_of(setting)) for _ in range(4)]

    @torch.inference_mode()
    def run():
        return model.decode_head.forward(model.neck(maps) if model.with_neck else maps)

    return run


def inference(setting):
    model, size = build_to_infer(setting), setting["size"]
    images = torch.randn(setting["batch_size"], 3, size, size).to(setting["device"], dtype_of(setting))

    @torch.inference_mode()
    def run():
        return model.encode_decode(images, [{"img_shape": (size, size)}] * len(images)).argmax(1)

    return run


def training_step(setting):
    device, size = setting["device"], setting["size"]
    model = build(setting).train().to(device)
    images = torch.randn(setting["batch_size"], 3, size, size, device=device)
    samples = []
    for labels in torch.randint(setting["num_labels"], (len(images), 1, size, size), device=device):
        samples.append(SegDataSample(gt_sem_seg=PixelData(data=labels)))
        samples[-1].set_metainfo({"img_shape": (size, size)})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def run():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=setting["dtype"] == "bfloat16"):
            losses, _ = model.parse_losses(model.loss(images, samples))
        losses.backward()
        optimizer.step()
        return losses

    return run


def segmenter(setting):
    """A function that makes the label map of a photo, an array in RGB, by one scale or by several with mirrors."""
    model, side = build_to_infer(setting), setting["size"]

    def view(photo, scale, flip):
        short = max(side, int(scale * side))
        resized = mmcv.imrescale(photo, (10**6, short))
        image = mmcv.imnormalize(mmcv.imflip(resized) if flip else resized, MEAN, STD, to_rgb=False)
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        meta = {"ori_shape": photo.shape[:2], "img_shape": tuple(image.shape[-2:]), "flip": flip, "img_path": ""}
        sample = SegDataSample()
        sample.set_metainfo({**meta, "flip_direction": "horizontal" if flip else None, "padding_size": [0] * 4})
        return model.predict(image[None].to(setting["device"], dtype_of(setting)), [sample])

    @torch.inference_mode()
    def segment(photo):
        if setting["scales"] is None:
            return view(photo, 1, False)[0].pred_sem_seg.data[0]
        views = [view(photo, scale, flip) for scale in setting["scales"] for flip in (False, True)]
        merged = SegTTAModel(module=model).merge_preds(list(zip(*views)))[0].pred_sem_seg.data
        return merged.reshape(photo.shape[:2])

    return segment


def photo(setting):
    segment = segmenter(setting)
    return lambda: segment(mmcv.imread(setting["photo"], channel_order="rgb"))


def files_of(folder, kind):
    return [str(path) for path in sorted(Path(folder, kind, "val").iterdir())]


def evaluation(setting):
    segment, num_labels = segmenter(setting), setting["num_labels"]
    files = list(zip(files_of(setting["folder"], "images"), files_of(setting["folder"], "annotations")))

    def run():
        total = 0
        for image, annotation in files:
            label_map = segment(mmcv.imread(image, channel_order="rgb")).cpu()
            truth = torch.from_numpy(mmcv.imread(annotation, "unchanged", backend="pillow").astype(np.int64))
            areas = IoUMetric.intersect_and_union(label_map, truth, num_labels, 255)
            total = total + torch.stack(areas)
        return total

    return run


def augmentation(setting):
    """Training examples as in the published configurations: channels first, ids of 64 bits."""
    cv2.setNumThreads(0 if setting["threads"] == 1 else setting["threads"])
    size, (short, long), ratios = setting["size"], setting["photo_sides"], tuple(setting["scale_range"])
    read = Compose([{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}])
    augment = Compose(
        [
            {
                "type": "RandomResize",
                "scale": (long, short),
                "ratio_range": ratios,
                "keep_ratio": True,
            },
            {"type": "RandomCrop", "crop_size": (size, size), "cat_max_ratio": 0.75},
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "PhotoMetricDistortion"},
            {"type": "Normalize", "mean": setting["mean"], "std": setting["std"], "to_rgb": True},
            {"type": "Pad", "size": (size, size), "pad_val": {"img": 0, "seg": 255}},
        ]
    )
    paths = zip(files_of(setting["folder"], "images"), files_of(setting["folder"], "annotations"))
    samples = [{"img_path": image, "seg_map_path": truth, "reduce_zero_label": False} for image, truth in paths]
    arrays = [] if setting["with_reading"] else [read({**sample, "seg_fields": []}) for sample in samples]

    def example(results):
        results = augment(results)
        image = torch.from_numpy(np.ascontiguousarray(results["img"].transpose(2, 0, 1)))
        return image, torch.from_numpy(results["gt_seg_map"].astype(np.int64))

    def run():
        if setting["with_reading"]:
            return [example(read({**sample, "seg_fields": []})) for sample in samples]
        # Transforms write into the dictionary and its lists.
        return [example({**sample, "seg_fields": list(sample["seg_fields"])}) for sample in arrays]

    return run


CODES = {
    "decoder": decoder,
    "inference": inference,
    "training-step": training_step,
    "photo": photo,
    "evaluation": evaluation,
    "augmentation": augmentation,
}
