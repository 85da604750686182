"""Fine-tuning SETR with the stock `Trainer`: examples from a data set, batches, and mean IoU while training."""

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F
from torchvision.transforms import v2
from transformers import EvalPrediction

from .data import IGNORED_LABEL, LabelSet
from .image_processing_setr import SetrImageProcessor
from .metrics import segmentation_scores
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


def evaluation_examples(dataset: Dataset, label_set: LabelSet, processor: SetrImageProcessor) -> Dataset:
    """The data set as whole images at the processor's size, with labels of that size."""

    def apply(batch):
        examples = {"pixel_values": [], "labels": []}
        for image, annotation, name in zip(batch["image"], batch["annotation"], batch["name"]):
            labels = label_set.encode(annotation, name)
            check_same_size(image, labels, name)
            inputs = processor(image, labels, do_split_image=False, do_reduce_labels=False, return_tensors="pt")
            for key in examples:
                examples[key].append(inputs[key][0])
        return examples

    return dataset.with_transform(apply)


def check_same_size(image, labels: np.ndarray, name: str):
    if (image.height, image.width) != labels.shape:
        raise ValueError(
            f"the image of {name} is {image.height}×{image.width} pixels high and wide, its annotation "
            f"{labels.shape[0]}×{labels.shape[1]}"
        )


def collate(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stacks examples; smaller ones are padded at the right and bottom, with 0 and with ignored labels."""
    height = max(example["labels"].shape[0] for example in examples)
    width = max(example["labels"].shape[1] for example in examples)

    def pad(tensor, value):
        return F.pad(tensor, (0, width - tensor.shape[-1], 0, height - tensor.shape[-2]), value=value)

    return {
        "pixel_values": torch.stack([pad(example["pixel_values"], 0.0) for example in examples]),
        "labels": torch.stack([pad(example["labels"], IGNORED_LABEL) for example in examples]),
    }


def confusion_matrices(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    One confusion matrix per image, int64 of shape `(batch_size, num_labels, num_labels)`, true class by predicted one:
    `preprocess_logits_for_metrics` of the `Trainer`, so that it gathers these and not the logits.
    """
    num_labels = logits.shape[1]
    predictions = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear").argmax(dim=1)
    matrices = []
    for image_labels, image_predictions in zip(labels, predictions):
        valid = image_labels != IGNORED_LABEL
        pairs = image_labels[valid] * num_labels + image_predictions[valid]
        matrices.append(torch.bincount(pairs, minlength=num_labels**2).view(num_labels, num_labels))
    return torch.stack(matrices)


class MeanIouOfMatrices:
    """`compute_metrics` for a `Trainer` with `batch_eval_metrics=True`: scores of the sum of all matrices."""

    def __init__(self):
        self.total = 0

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        self.total = self.total + np.asarray(prediction.predictions).sum(axis=0)
        if not compute_result:
            return {}
        scores = segmentation_scores(self.total)
        self.total = 0
        return {name: scores[name] for name in ("mean_iou", "mean_accuracy", "overall_accuracy")}
