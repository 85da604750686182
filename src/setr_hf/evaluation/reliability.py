"""How far the confidence in predicted classes agrees with how often they are right."""

from collections.abc import Iterable

import numpy as np
import torch

from ..data.rows import Sample
from ..model.image_processing_setr import IGNORED_LABEL
from .records import MOST_PIXELS, are_numbers, check_sample_record, sample_record


# As in Guo et al., "On Calibration of Modern Neural Networks", section 5.
NUM_BINS = 15
# Confidences are summed as multiples of 1/2^20, so that the sum does not depend on its order.
FIXED_POINT = 2**20
# What is counted in each bin of confidence.
COUNTS = ("pixels", "correct", "confidence")


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """The bin of equal width, 0 to 14, of each confidence, 0 to 1. Bins hold their lower edge, the last one both."""
    return np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def bin_counts(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Pixels, correct pixels and the sum of confidences in multiples of 1/2^20, int64 of shape `(3, 15)`, in bins of
    confidence from 0 to 1. `confidence` (float32) and `correct` (bool) are of shape `(num_pixels,)`.
    """
    bins = bins_of(confidence)
    sums = (None, correct, np.rint(confidence.astype(np.float64) * FIXED_POINT))
    # As floating-point numbers these integers are exact up to 2^53: a label map has at most 2^30 pixels.
    return np.stack([np.bincount(bins, weights, NUM_BINS).astype(np.int64) for weights in sums])


def calibration_record(sample: Sample, prediction: tuple[torch.Tensor, torch.Tensor], num_labels: int) -> dict:
    """The [`sample_record`] of a label map, and under `calibration` the [`bin_counts`] of its labelled pixels.
    `prediction` holds the label map and the confidence in it, both of shape `(height, width)`.
    """
    label_map, confidence = prediction
    record = sample_record(sample, label_map, num_labels)
    if sample.label_map is None:
        return {**record, "calibration": None}
    counted = sample.label_map != IGNORED_LABEL
    correct = label_map.numpy()[counted] == sample.label_map[counted]
    counts = bin_counts(confidence.numpy()[counted], correct)
    return {**record, "calibration": dict(zip(COUNTS, counts.tolist()))}


def check_calibration_record(record: dict, num_labels: int, has_annotations: bool) -> None:
    """As [`check_sample_record`], for what [`calibration_record`] returns."""
    check_sample_record(record, num_labels, has_annotations)
    calibration = record["calibration"]
    if not has_annotations:
        if calibration is not None:
            raise ValueError("it holds the calibration of an image that has no annotation")
        return
    pixels, correct, confidence = (calibration[name] for name in COUNTS)
    are_counts = all(are_numbers(counts, 0, MOST_PIXELS) and len(counts) == NUM_BINS for counts in (pixels, correct))
    if not are_counts or sum(pixels) != sum(record["counts"]) or any(a > b for a, b in zip(correct, pixels)):
        raise ValueError("calibration must count the pixels of 15 bins, and those of them that are correct")
    most = MOST_PIXELS * FIXED_POINT
    are_sums = are_numbers(confidence, 0, most) and len(confidence) == NUM_BINS
    if not are_sums or any(a > b * FIXED_POINT for a, b in zip(confidence, pixels)):
        raise ValueError("calibration must hold the sums of the confidences in 15 bins, each of which is at most 1")


def expected_calibration_error(pixels: np.ndarray, correct: np.ndarray, confidence: np.ndarray) -> float:
    """The mean over all pixels of how far, in their bin, the share of correct pixels is from their mean confidence: 0
    to 1, NaN without pixels (Guo et al., "On Calibration of Modern Neural Networks", equation 3).

    Args:
        pixels, correct, confidence (`np.ndarray` of shape `(num_bins,)`): In each bin, how many pixels there are, how
            many of them are correct, and the sum of their confidences.
    """
    total = pixels.sum()
    return float(np.abs(correct - confidence).sum() / total) if total else float("nan")


def summarize_calibration(records: Iterable[dict]) -> dict:
    """From [`calibration_record`]s, the `expected_calibration_error` of all labelled pixels, 0 to 1, or `None` if
    there are none; and as `calibration` the bins it comes from: `low` and `high` confidence, `pixels`, and `accuracy`
    and mean `confidence`, which are `None` in an empty bin.
    """
    sums = np.zeros((len(COUNTS), NUM_BINS), dtype=object)  # Python's integers, which do not overflow.
    for record in records:
        if record["calibration"] is not None:
            sums += np.array([record["calibration"][name] for name in COUNTS], dtype=object)
    pixels, correct, confidence = (counts.astype(np.float64) for counts in sums / [[1], [1], [FIXED_POINT]])
    error = expected_calibration_error(pixels, correct, confidence)
    return {
        "expected_calibration_error": None if np.isnan(error) else error,
        "calibration": [
            {
                "low": index / NUM_BINS,
                "high": (index + 1) / NUM_BINS,
                "pixels": int(pixels[index]),
                "accuracy": float(correct[index] / pixels[index]) if pixels[index] else None,
                "confidence": float(confidence[index] / pixels[index]) if pixels[index] else None,
            }
            for index in range(NUM_BINS)
        ],
    }
