"""
The published training runs of SETR by name, and our own small ones.

A name is `setr-{decoder}-{encoder}-{data set}-{what the published runs on it vary}`: the batch on ADE20K and Pascal
Context (`b8`, `b16`), the iterations on Cityscapes (`40k`, `80k`). `mmseg-` before it stands for mmsegmentation's run.
`setr-{decoder}-small-camvid` are ours, from random weights on a few hundred photographs.
"""

import difflib
import re
from dataclasses import dataclass, field

from ..data.public_datasets import CLASS_NAMES, PROCESSOR_SETTINGS


# Hub id of the weights the runs start from, and the `SetrConfig` fields of their size. The original code takes timm's
# `jx_vit_large_p16_384` and `jx_vit_base_p16_384` and DeiT's distilled file, mmsegmentation the first of these; the
# ids hold the same weights: ViT trained on ImageNet-21k and then on ImageNet-1k at 384 pixels, and DeiT.
BASE_FIELDS = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
ENCODERS = {
    "large": ("google/vit-large-patch16-384", {}),
    "base": ("google/vit-base-patch16-384", BASE_FIELDS),
    "deit": ("facebook/deit-base-distilled-patch16-384", BASE_FIELDS),
    "small": (
        None,
        {"hidden_size": 192, "num_hidden_layers": 8, "num_attention_heads": 3, "intermediate_size": 768}
        # The fastest for sequences of 300 patches on CPUs.
        | {"attn_implementation": "eager"},
    ),
}
# Mean IoU in percent at one scale and at several with mirror images, "-" where none was published: the tables of the
# original repository's README, and mmsegmentation's metafile. They are also the list of the recipes.
PUBLISHED_RESULTS = """
setr-naive-large-ade20k-b16          48.06 48.80
setr-pup-large-ade20k-b16            48.62 50.09
setr-pup-deit-ade20k-b16             46.34 47.30
setr-mla-large-ade20k-b8             47.79 50.03
setr-mla-large-ade20k-b16            48.64 50.28
setr-mla-deit-ade20k-b16             46.15 47.71
setr-naive-large-pascal-context-b16  52.89 53.61
setr-pup-large-pascal-context-b16    54.37 55.27
setr-pup-deit-pascal-context-b16     52.00 52.50
setr-mla-large-pascal-context-b8     54.39 55.39
setr-mla-large-pascal-context-b16    55.01 55.83
setr-mla-deit-pascal-context-b16     52.91 53.74
setr-naive-large-cityscapes-40k      77.37 -
setr-naive-large-cityscapes-80k      77.90 -
setr-naive-base-cityscapes-40k       75.54 -
setr-naive-base-cityscapes-80k       76.25 -
setr-naive-deit-cityscapes-40k       77.85 -
setr-naive-deit-cityscapes-80k       78.66 -
setr-pup-large-cityscapes-40k        78.39 -
setr-pup-large-cityscapes-80k        79.34 -
setr-pup-deit-cityscapes-40k         78.79 -
setr-pup-deit-cityscapes-80k         79.45 -
setr-mla-large-cityscapes-40k        76.65 -
setr-mla-large-cityscapes-80k        77.24 -
setr-mla-deit-cityscapes-40k         78.04 -
setr-mla-deit-cityscapes-80k         78.98 -
mmseg-setr-naive-large-ade20k-b16     48.28 49.56
mmseg-setr-pup-large-ade20k-b16       48.24 49.99
mmseg-setr-mla-large-ade20k-b8        47.34 49.05
mmseg-setr-mla-large-ade20k-b16       47.39 49.37
mmseg-setr-naive-large-cityscapes-80k 78.10 80.22
mmseg-setr-pup-large-cityscapes-80k   79.21 81.02
mmseg-setr-mla-large-cityscapes-80k   77.00 79.59
"""
NAME = r"(mmseg-)?setr-(naive|pup|mla)-(large|base|deit)-(ade20k|pascal-context|cityscapes)-(\w+)"
MLA_MMSEG_FIELDS = {"mla_align_corners": False, "mla_classifier_kernel_size": 1, "mla_auxiliary_bias": True}
PUBLISHED_ARGUMENTS = {
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "head_learning_rate_ratio": 10.0,
    "lr_scheduler_type": "polynomial",
    "lr_scheduler_kwargs": {"power": 0.9, "min_lr": 1e-4},
    # Each evaluates and saves ten times, after every 4,000, 8,000 or 16,000 iterations.
    "eval_strategy": "steps",
    "eval_steps": 0.1,
    "save_strategy": "steps",
    "save_steps": 0.1,
    "logging_steps": 50,
    # Every iteration has the full batch, as there.
    "dataloader_drop_last": True,
    "dataloader_num_workers": 4,
    "dataloader_persistent_workers": True,
}
SMALL_ARGUMENTS = {
    "max_steps": 3400,
    "learning_rate": 1e-3,
    "optim": "adamw_torch",
    "weight_decay": 0.05,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "bf16": True,
    "eval_strategy": "steps",
    "eval_steps": 0.25,
    "save_strategy": "steps",
    "save_steps": 0.25,
    "logging_steps": 50,
    "dataloader_drop_last": True,
}


@dataclass(frozen=True)
class Recipe:
    """
    A training run. Sizes are in pixels.

    Args:
        name: See the module's docstring.
        origin: Whose run it is: "original" (the CVPR 2021 code), "mmsegmentation" (1.2.2) or "setr-hf".
        decoder_type: "naive", "pup" or "mla".
        encoder: Hub id of the weights the encoder starts from; random ones if None.
        dataset: A key of [`CLASS_NAMES`], whose classes the data must have; any data set if None.
        crop_size: Height and width of training crops and test windows.
        size: Size that ratio 1 of random scaling stands for, in the image processor's terms.
        test_size: Size of photographs in evaluation, in the image processor's terms.
        stride: Distance between the starts of neighbouring test windows.
        scale_range: Least and largest ratio of random scaling.
        category_max_ratio: Largest share of one class among the labelled pixels of a crop; 1 for no limit.
        photometric_distortion: Whether colours are distorted.
        batch_size: Global: devices × per device × accumulation.
        semantic_loss_average: As in `SetrConfig`.
        config_fields: Other fields of `SetrConfig`.
        training_arguments: What differs from the defaults of `SetrTrainingArguments`.
        published: Mean IoU in percent at a single scale, and at several with mirror images, where published.
    """

    name: str
    origin: str
    decoder_type: str
    encoder: str | None
    dataset: str | None
    crop_size: tuple[int, int]
    size: dict[str, int]
    test_size: dict[str, int]
    stride: int
    batch_size: int
    scale_range: tuple[float, float] = (0.5, 2.0)
    category_max_ratio: float = 0.75
    photometric_distortion: bool = True
    semantic_loss_average: str = "all"
    config_fields: dict = field(default_factory=dict)
    training_arguments: dict = field(default_factory=dict)
    published: tuple[float | None, float | None] = (None, None)

    @property
    def num_labels(self) -> int | None:
        """Number of classes; None where the data decides."""
        return len(CLASS_NAMES[self.dataset]) if self.dataset else None

    @property
    def network(self) -> dict:
        """All fields of `SetrConfig` that differ from its defaults, but for the classes."""
        own = {"image_size": self.crop_size, "semantic_loss_average": self.semantic_loss_average}
        return {"decoder_type": self.decoder_type, **own, **self.config_fields}


def base_rate(decoder_type: str, dataset: str) -> float:
    """Learning rate of everything but the heads at the first iteration of a published run."""
    if decoder_type == "naive":
        return 0.01
    return {"pup": 0.01, "mla": 0.002}[decoder_type] if dataset == "cityscapes" else 0.001


def mmseg_fields(decoder_type: str, dataset: str) -> dict:
    """What differs in mmsegmentation's networks; see [`SetrConfig`]."""
    if decoder_type == "mla":
        return MLA_MMSEG_FIELDS
    if decoder_type == "pup":
        return {"auxiliary_out_indices": [10, 15, 20], "auxiliary_num_convs": 2}
    num_convs = 1 if dataset == "cityscapes" else 2
    return {"decoder_scale_factor": 4, "auxiliary_scale_factor": 4, "auxiliary_num_convs": num_convs}


def published_recipe(row: str) -> Recipe:
    """The recipe of a row of the tables of results."""
    name, *results = row.split()
    prefix, decoder_type, encoder, dataset, variant = re.fullmatch(NAME, name).groups()
    dataset, is_mmseg = dataset.replace("-", "_"), prefix is not None
    protocol = PROCESSOR_SETTINGS[dataset]
    weights, size_fields = ENCODERS[encoder]
    # Training on Pascal Context scales the long side to 520 pixels, testing the short one.
    size = {"shortest_edge": 520, "longest_edge": 520} if dataset == "pascal_context" else protocol["size"]
    max_steps = {"ade20k": 160_000, "pascal_context": 80_000}.get(dataset) or int(variant.rstrip("k")) * 1000
    return Recipe(
        name=name,
        origin="mmsegmentation" if is_mmseg else "original",
        decoder_type=decoder_type,
        encoder=weights,
        dataset=dataset,
        crop_size=(protocol["crop_size"],) * 2,
        size=size,
        test_size=protocol["size"],
        stride=protocol["stride"],
        batch_size=8 if dataset == "cityscapes" else int(variant.removeprefix("b")),
        config_fields=size_fields | (mmseg_fields(decoder_type, dataset) if is_mmseg else {}),
        training_arguments={
            "max_steps": max_steps,
            "learning_rate": base_rate(decoder_type, dataset),
            **PUBLISHED_ARGUMENTS,
        },
        published=tuple(None if result == "-" else float(result) for result in results),
    )


def small_recipe(decoder_type: str) -> Recipe:
    """Ours: minutes to an hour on the 367 training photographs of CamVid, labelled for 11 classes."""
    return Recipe(
        name=f"setr-{decoder_type}-small-camvid",
        origin="setr-hf",
        decoder_type=decoder_type,
        encoder=None,
        dataset=None,
        crop_size=(240, 320),
        size={"shortest_edge": 240},
        test_size={"shortest_edge": 240},
        stride=160,
        batch_size=2,
        scale_range=(0.85, 1.3),
        category_max_ratio=1.0,
        photometric_distortion=False,
        semantic_loss_average="valid",
        # Full-width convolutions at half the image's resolution would take several times as long on CPUs.
        config_fields=ENCODERS["small"][1] | ({"decoder_hidden_size": 128} if decoder_type == "pup" else {}),
        training_arguments=SMALL_ARGUMENTS,
    )


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *map(published_recipe, PUBLISHED_RESULTS.strip().splitlines()),
        *map(small_recipe, ("naive", "pup", "mla")),
    )
}


def find_recipe(name: str) -> Recipe:
    """
    A recipe by its name.

    Raises:
        `ValueError`: there is none; offers names that are close, or all.
    """
    if name in RECIPES:
        return RECIPES[name]
    close = difflib.get_close_matches(name.lower(), RECIPES, n=4)
    offer = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(RECIPES)}"
    raise ValueError(f"there is no recipe {name!r}: {offer}")


__all__ = ["RECIPES", "Recipe", "find_recipe"]
