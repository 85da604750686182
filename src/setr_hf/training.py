"""Examples and batches for training and evaluation from a segmentation data set."""

import numpy as np
import torch
from datasets import Dataset
from torchvision.transforms import v2

from .data import LabelSet
from .transforms import to_tv_tensors


def training_examples(dataset: Dataset, label_set: LabelSet, transform: v2.Transform) -> Dataset:
    """The data set with `transform` applied on access: `pixel_values` and `labels` of the crop's size."""

    def apply(batch):
        pairs = []
        for image, annotation, name in zip(batch["image"], batch["annotation"], batch["name"]):
            labels = label_set.encode(annotation, name)
            check_same_size(image, labels, name)
            pairs.append(transform(*to_tv_tensors(image, labels)))
        return {
            "pixel_values": [image.as_subclass(torch.Tensor) for image, _ in pairs],
            "labels": [labels.as_subclass(torch.Tensor).long() for _, labels in pairs],
        }

    return dataset.with_transform(apply)


def evaluation_examples(dataset: Dataset, label_set: LabelSet) -> Dataset:
    """The data set as `photo`, a PIL image, and `label_map`, its class ids, both at the original size."""

    def apply(batch):
        label_maps = []
        for image, annotation, name in zip(batch["image"], batch["annotation"], batch["name"]):
            labels = label_set.encode(annotation, name)
            check_same_size(image, labels, name)
            label_maps.append(labels)
        return {"photo": batch["image"], "label_map": label_maps}

    return dataset.with_transform(apply)


def check_same_size(image, labels: np.ndarray, name: str):
    if (image.height, image.width) != labels.shape:
        raise ValueError(
            f"the image of {name} is {image.height}×{image.width} pixels high and wide, its annotation "
            f"{labels.shape[0]}×{labels.shape[1]}"
        )


def collate(examples: list[dict]) -> dict:
    """Stacks training examples, which have one size; leaves photographs and their label maps as lists."""
    if "photo" in examples[0]:
        return {key: [example[key] for example in examples] for key in ("photo", "label_map")}
    return {key: torch.stack([example[key] for example in examples]) for key in ("pixel_values", "labels")}
