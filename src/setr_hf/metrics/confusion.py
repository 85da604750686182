"""Confusion matrices of label maps, and scores from them."""

from typing import Any

import numpy as np


def label_map_array(label_map: Any, what: str) -> np.ndarray:
    """An array, tensor, PIL image or nested list of integer class ids as an array of shape `(height, width)`."""
    array = np.asarray(label_map.cpu() if hasattr(label_map, "cpu") else label_map)
    if array.ndim != 2 or array.dtype.kind not in "bui":
        raise ValueError(
            f"{what} must hold one integer class id per pixel and have the shape (height, width), got "
            f"{array.dtype} of shape {array.shape}; if it holds class scores, take the argmax first"
        )
    return array


def confusion_matrix(
    prediction: Any, reference: Any, num_labels: int, ignore_index: int = 255, reduce_labels: bool = False
) -> np.ndarray:
    """Pixel counts of one image, int64 of shape `(num_labels, num_labels)`: a row for each true class, a column for
    each predicted one. The matrices of several images or processes add up.

    Args:
        prediction (array, tensor, PIL image or nested list): Class ids from 0 to `num_labels - 1`, shape
            `(height, width)`.
        reference (array, tensor, PIL image or nested list): Class ids or `ignore_index`, of the same shape.
        num_labels (`int`): Number of classes.
        ignore_index (`int`, *optional*, defaults to 255): The value of pixels that are not counted.
        reduce_labels (`bool`, *optional*, defaults to `False`): Whether the reference holds 0 for "other", which is
            ignored, and k for class k − 1.

    Raises:
        `ValueError`: the shapes differ or are not `(height, width)`, or counted pixels hold ids that are not classes.
    """
    prediction, reference = label_map_array(prediction, "a prediction"), label_map_array(reference, "a reference")
    if prediction.shape != reference.shape:
        raise ValueError(f"the prediction has the shape {prediction.shape}, its reference {reference.shape}")
    counted = reference != ignore_index
    if reduce_labels:
        counted &= reference != 0
    prediction = prediction[counted].astype(np.int64)
    reference = reference[counted].astype(np.int64) - int(reduce_labels)
    for ids, what in ((prediction, "the prediction"), (reference, "the reference")):
        if ids.size and (ids.min() < 0 or ids.max() >= num_labels):
            invalid = np.unique(ids[(ids < 0) | (ids >= num_labels)])
            hint = " (after reduce_labels)" if reduce_labels and what == "the reference" else ""
            raise ValueError(
                f"{what} holds the ids {invalid.tolist()}{hint}, but num_labels={num_labels} allows 0 to "
                f"{num_labels - 1}, and ignore_index is {ignore_index}. If 0 stands for 'other' and classes count "
                "from 1, set reduce_labels=True"
            )
    return np.bincount(reference * num_labels + prediction, minlength=num_labels**2).reshape(num_labels, num_labels)


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)


def class_ious(intersection: np.ndarray, labelled: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """IoU, 0 to 1, from pixel counts of any shape; NaN for a class that is neither labelled nor predicted."""
    return divide(intersection, labelled + predicted - intersection)


def mean_over_classes(scores: np.ndarray) -> np.ndarray:
    """Mean along the last axis over the classes that have a score; NaN where none has one."""
    has_score = ~np.isnan(scores)
    return divide(np.where(has_score, scores, 0).sum(axis=-1), has_score.sum(axis=-1))


def segmentation_scores(matrix: np.ndarray) -> dict:
    """The scores, 0 to 1, of a confusion matrix of shape `(num_labels, num_labels)` with true classes in its rows.

    With intersection I, labelled pixels L and predicted pixels P of a class: IoU = I / (L + P − I), accuracy = I / L,
    Dice = 2I / (L + P), NaN where the denominator is 0 and then left out of the mean. Pixel accuracy is ΣI / ΣL and
    frequency-weighted IoU is Σ(L · IoU) / ΣL (Long et al., "Fully Convolutional Networks", section 5).
    """
    intersection, labelled, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    iou, accuracy = class_ious(intersection, labelled, predicted), divide(intersection, labelled)
    dice = divide(2 * intersection, labelled + predicted)
    total = int(labelled.sum())
    absent = np.flatnonzero(labelled + predicted == 0).tolist()
    return {
        "mean_iou": float(mean_over_classes(iou)),
        "mean_accuracy": float(mean_over_classes(accuracy)),
        "mean_dice": float(mean_over_classes(dice)),
        "overall_accuracy": int(intersection.sum()) / total if total else float("nan"),
        "frequency_weighted_iou": float((labelled * np.nan_to_num(iou)).sum() / total) if total else float("nan"),
        "per_category_iou": iou,
        "per_category_accuracy": accuracy,
        "per_category_dice": dice,
        "absent_classes": absent,
        "num_absent_classes": len(absent),
        "unlabelled_classes": np.flatnonzero(labelled == 0).tolist(),
        "num_pixels": total,
    }
