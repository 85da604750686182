"""
What five training steps of mmsegmentation 1.2.2 come to: its published ADE20K recipes (model, optimizer, schedule)
with the networks and the schedule made small. Runs in an environment of its own, where this package need not be:

    python tests/references/mmseg_training_reference.py FOLDER

writes to FOLDER, for each decoder, DECODER.pth, the weights and running statistics after the steps, and
mmseg_training.json: the main loss and each auxiliary loss of every step, the shallowest layer first, and the rates of
the schedule. That file is also kept beside this one, for tests without mmsegmentation.
"""

import json
import os
import sys
from pathlib import Path

import mmseg
import torch
from checkpoints import CLASSES, DEPTH, HEADS, WIDTH, stand_in
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from training_batches import SCHEDULE_STEPS, SIZES, training_batches


RECIPES = os.path.join(os.path.dirname(mmseg.__file__), ".mim/configs/setr")
RECIPE_NAMES = {
    "naive": "setr_vit-l_naive_8xb2-160k_ade20k-512x512.py",
    "pup": "setr_vit-l_pup_8xb2-160k_ade20k-512x512.py",
    "mla": "setr_vit-l_mla_8xb2-160k_ade20k-512x512.py",
}


def build(config, decoder):
    """The recipe's model made small, with BatchNorm in place of SyncBN, and the weights of `checkpoints.py`."""
    config.update(pretrained=None, data_preprocessor=None)
    config.backbone.update(embed_dims=WIDTH, num_layers=DEPTH, num_heads=HEADS, img_size=SIZES["mmseg"][0])
    config.backbone.update(patch_bias=True, out_indices=tuple(range(DEPTH)), init_cfg=None)
    if decoder == "mla":
        config.neck.update(in_channels=[WIDTH] * DEPTH, norm_cfg={"type": "BN"})
    for head in (config.decode_head, *config.auxiliary_head):
        head.update(num_classes=CLASSES, norm_cfg={"type": "BN"})
        if decoder != "mla":
            head.in_channels = WIDTH
    model = MODELS.build(config)
    model.load_state_dict(stand_in("mmseg", decoder, auxiliary_convs=2))
    return model.train()


def build_schedule(config, optim_wrapper, end):
    return PARAM_SCHEDULERS.build({**config.param_scheduler[0], "end": end, "optimizer": optim_wrapper})


def rates(config, model, end):
    """Rate of the base and of the heads at the steps from 0 to `SCHEDULE_STEPS`."""
    optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)
    schedule = build_schedule(config, optim_wrapper, end)
    part_of = {parameter: "head" if "head" in name else "base" for name, parameter in model.named_parameters()}
    found = {"base": [], "head": []}
    for _ in range(SCHEDULE_STEPS + 1):
        for part, part_rates in found.items():
            groups = [group for group in optim_wrapper.optimizer.param_groups if part_of[group["params"][0]] == part]
            (rate,) = {group["lr"] for group in groups}
            part_rates.append(rate)
        optim_wrapper.optimizer.step()
        schedule.step()
    return found


def samples(labels):
    result = []
    for image_labels in labels:
        sample = SegDataSample(gt_sem_seg=PixelData(data=image_labels[None]))
        sample.set_metainfo({"img_shape": tuple(image_labels.shape)})
        result.append(sample)
    return result


def step(model, optim_wrapper, pixel_values, labels):
    """The losses of one training step, as mmsegmentation logs them: the auxiliary ones with their weight of 0.4."""
    logged = model.train_step({"inputs": pixel_values, "data_samples": samples(labels)}, optim_wrapper)
    auxiliary = [logged[f"aux_{index}.loss_ce"].item() for index in range(len(model.auxiliary_head))]
    # Its mla neck emits the deepest map first.
    if model.with_neck:
        auxiliary.reverse()
    return [logged["decode.loss_ce"].item(), *auxiliary]


def main(folder):
    register_all_modules()
    MMLogger.get_instance("reference", log_level="WARNING")
    torch.set_num_threads(1)
    result = {
        "command": "python tests/references/mmseg_training_reference.py FOLDER",
        "mmsegmentation": mmseg.__version__,
    }
    for decoder, recipe in RECIPE_NAMES.items():
        config = Config.fromfile(os.path.join(RECIPES, recipe))
        model = build(config.model, decoder)
        optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)
        # mmengine divides by `end` - 1 where the original code, and mmsegmentation 0.x, divide by the number of steps.
        schedule = build_schedule(config, optim_wrapper, SCHEDULE_STEPS + 1)
        losses = []
        for pixel_values, labels in training_batches("mmseg", CLASSES):
            losses.append(step(model, optim_wrapper, pixel_values, labels))
            schedule.step()
        torch.save({"meta": {}, "state_dict": model.state_dict()}, folder / f"{decoder}.pth")
        result[decoder] = {
            "recipe": recipe,
            "losses": losses,
            "rates": rates(config, model, SCHEDULE_STEPS + 1),
            "rates_as_published": rates(config, model, SCHEDULE_STEPS),
        }
    (folder / "mmseg_training.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
