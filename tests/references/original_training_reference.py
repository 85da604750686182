"""
What five training steps of the original repository come to: its networks and its loss, from its own files, with its
ADE20K recipes made small. It was written for mmcv 1; the few parts of it that these files use are found in mmengine
and mmcv 2, so this runs where mmsegmentation 1.2.2 does:

    python tests/references/original_training_reference.py CLONE FOLDER

with CLONE a copy of github.com/fudan-zvg/SETR (commit 1361561), writes to FOLDER original_training.json: the main loss
and each auxiliary loss of every step. That file is also kept beside this one, for tests without the original.
"""

import collections.abc
import importlib
import json
import sys
import types
from pathlib import Path

import mmcv.cnn
import mmengine.model
import mmengine.registry
import torch
from checkpoints import CLASSES, DEPTH, HEADS, WIDTH, stand_in
from mmengine.config import Config
from training_batches import SCHEDULE_STEPS, SIZES, training_batches


RECIPE_NAMES = {decoder: f"SETR_{name}_512x512_160k_ade20k_bs_16.py" for decoder, name in
                (("naive", "Naive"), ("pup", "PUP"), ("mla", "MLA"))}  # fmt: skip


def add_module(name, **attributes):
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


def import_original(clone):
    """Imports the files of its networks, without its packages' __init__, which would import the rest of mmcv 1."""
    add_module("torch._six", container_abcs=collections.abc)
    add_module("mmcv.utils", Registry=mmengine.registry.Registry, build_from_cfg=mmengine.registry.build_from_cfg)
    mmcv.cnn.normal_init = mmengine.model.normal_init
    # Decorators that do nothing in fp32.
    add_module(
        "mmcv.runner", auto_fp16=lambda **_: lambda method: method, force_fp32=lambda **_: lambda method: method
    )
    for package in ("mmseg", "mmseg.models", "mmseg.models.backbones", "mmseg.models.decode_heads"):
        add_module(package, __path__=[str(clone / package.replace(".", "/"))])
    add_module("mmseg.core", build_pixel_sampler=None)
    for module in ("backbones.vit", "backbones.vit_mla", "decode_heads.vit_up_head", "decode_heads.vit_mla_head",
                   "decode_heads.vit_mla_auxi_head"):  # fmt: skip
        importlib.import_module(f"mmseg.models.{module}")
    # Its accuracy, logged beside the loss, needs an older PyTorch.
    sys.modules["mmseg.models.decode_heads.decode_head"].accuracy = lambda *_: None
    return importlib.import_module("mmseg.models.builder")


def build(builder, config, decoder):
    """Its modules as one model, with BatchNorm in place of SyncBN, and the weights of `checkpoints.py`."""
    heads = [config.decode_head, *config.auxiliary_head]
    for part in (config.backbone, *heads):
        part.img_size = SIZES["original"][0]
        if "norm_cfg" in part:
            part.norm_cfg = {"type": "BN"}
    config.backbone.update(embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS)
    if decoder == "mla":
        config.backbone.mla_index = tuple(range(DEPTH))
    for index, head in enumerate(heads):
        head.num_classes = CLASSES
        if decoder != "mla":
            head.update(in_channels=WIDTH, embed_dim=WIDTH, in_index=index - 1 if index else DEPTH - 1)
    model = torch.nn.ModuleDict(
        {
            "backbone": builder.build_backbone(config.backbone),
            "decode_head": builder.build_head(config.decode_head),
            "auxiliary_head": torch.nn.ModuleList(builder.build_head(head) for head in config.auxiliary_head),
        }
    )
    model.load_state_dict(stand_in("original", decoder))
    return model.train()


def main(clone, folder):
    torch.set_num_threads(1)
    builder = import_original(clone)
    result = {"command": "python tests/references/original_training_reference.py CLONE FOLDER", "commit": "1361561"}
    for decoder, recipe in RECIPE_NAMES.items():
        config = Config.fromfile(clone / "configs/SETR" / recipe)
        model = build(builder, config.model, decoder)
        base_rate, multiples = config.optimizer.lr, config.optimizer.paramwise_cfg.custom_keys
        groups = [
            {"params": [parameter], "initial_lr": base_rate * (multiples["head"].lr_mult if "head" in name else 1)}
            for name, parameter in model.named_parameters()
        ]
        optimizer = torch.optim.SGD(
            groups, base_rate, momentum=config.optimizer.momentum, weight_decay=config.optimizer.weight_decay
        )
        losses = []
        for step, (pixel_values, labels) in enumerate(training_batches("original", CLASSES)):
            for group in optimizer.param_groups:
                # The poly policy of mmcv 1.
                coefficient = (1 - step / SCHEDULE_STEPS) ** config.lr_config.power
                group["lr"] = (group["initial_lr"] - config.lr_config.min_lr) * coefficient + config.lr_config.min_lr
            features = model["backbone"](pixel_values)
            step_losses = [
                head.losses(head(features), labels[:, None])["loss_seg"]
                for head in (model["decode_head"], *model["auxiliary_head"])
            ]
            optimizer.zero_grad()
            sum(step_losses).backward()
            optimizer.step()
            losses.append([loss.item() for loss in step_losses])
        result[decoder] = {"recipe": recipe, "losses": losses}
    (folder / "original_training.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
