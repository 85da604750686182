"""Examples and batches for training and evaluation from a segmentation data set."""

from collections.abc import Iterator

import torch
from datasets import Dataset
from torchvision.transforms import v2

from .data import LabelSet
from .transforms import to_tv_tensors


def rows_of(batch: dict[str, list]) -> Iterator[dict]:
    """The rows of a batch of columns, as `datasets` hands it to a transform."""
    return (dict(zip(batch, values)) for values in zip(*batch.values()))


def training_examples(dataset: Dataset, label_set: LabelSet, transform: v2.Transform) -> Dataset:
    """The data set with `transform` applied on access: `pixel_values` and `labels` of the crop's size."""

    def apply(batch):
        pairs = [transform(*to_tv_tensors(row["image"], label_set.encode_row(row))) for row in rows_of(batch)]
        return {
            "pixel_values": [image.as_subclass(torch.Tensor) for image, _ in pairs],
            "labels": [labels.as_subclass(torch.Tensor).long() for _, labels in pairs],
        }

    return dataset.with_transform(apply)


def evaluation_examples(dataset: Dataset, label_set: LabelSet) -> Dataset:
    """The data set as `photo`, a PIL image, and `label_map`, its class ids, both at the original size."""

    def apply(batch):
        return {"photo": batch["image"], "label_map": [label_set.encode_row(row) for row in rows_of(batch)]}

    return dataset.with_transform(apply)


def collate(examples: list[dict]) -> dict:
    """Stacks training examples, which have one size; leaves photographs and their label maps as lists."""
    if "photo" in examples[0]:
        return {key: [example[key] for example in examples] for key in ("photo", "label_map")}
    return {key: torch.stack([example[key] for example in examples]) for key in ("pixel_values", "labels")}
