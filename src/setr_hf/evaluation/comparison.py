"""Two models on the same images: differences of the classes, agreement, and an interval for the difference of mIoU."""

import numpy as np
import torch

from ..data.label_sets import LabelSet
from ..data.rows import Sample
from .records import matrix_of
from .results import image_record, summarize


def comparison_record(sample: Sample, first: torch.Tensor, second: torch.Tensor, num_labels: int) -> dict:
    """
    The record of an image that two models have segmented: the first one's confusion matrix, the second one's under
    `second`, and in how many of all pixels, counted or not, both chose the same class.
    """
    return {
        **image_record(sample, first, num_labels),
        "second": image_record(sample, second, num_labels),
        "agreeing_pixels": int((first == second).sum()),
        "all_pixels": first.numel(),
    }


def class_areas(records: list[dict], num_labels: int) -> np.ndarray:
    """Intersection, labelled and predicted pixels of each image and class, float64 of shape `(3, images, classes)`."""
    matrices = [matrix_of(record, num_labels) for record in records]
    areas = [[matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)] for matrix in matrices]
    # Integers stay exact in float64 up to 2^53.
    return np.array(areas, dtype=np.float64).transpose(1, 0, 2)


def mean_ious(areas: np.ndarray) -> np.ndarray:
    """The mIoU, 0 to 1, over the classes that occur, of each row of areas `(3, rows, classes)`."""
    intersection, labelled, predicted = areas
    union = labelled + predicted - intersection
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    present = (union > 0).sum(axis=1)
    return np.divide(iou.sum(axis=1), present, out=np.full(len(iou), np.nan), where=present > 0)


def bootstrap_interval(
    first: list[dict], second: list[dict], num_labels: int, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """
    The 95 % percentile interval of mIoU(second) − mIoU(first), as fractions, over sets of images drawn with
    replacement (Efron's bootstrap). Both models are scored on the same draws.

    Args:
        first, second: Records of the same images in the same order, with annotations.
    """
    areas = [class_areas(records, num_labels) for records in (first, second)]
    rng = np.random.default_rng(seed)
    count = len(first)
    draws_of_images = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    difference = mean_ious(draws_of_images @ areas[1]) - mean_ious(draws_of_images @ areas[0])
    low, high = np.nanpercentile(difference, [2.5, 97.5])
    return float(low), float(high)


def compare_records(records: list[dict], label_set: LabelSet) -> dict:
    """
    What [`comparison_record`]s of a data set say: scores of both models, `difference` = second − first of the mIoU and
    of each class's IoU (`None` where the class is absent for one of them), the bootstrap interval, and agreement.
    """
    second_records = [{**record, **record["second"]} for record in records]
    first, second = summarize(records, label_set), summarize(second_records, label_set)

    def difference(one, other):
        return None if one is None or other is None else other - one

    classes = [
        {"name": a["name"], "first": a["iou"], "second": b["iou"], "difference": difference(a["iou"], b["iou"])}
        for a, b in zip(first["classes"], second["classes"])
    ]
    defined = first["mean_iou"] is not None
    return {
        "first": first,
        "second": second,
        "difference": difference(first["mean_iou"], second["mean_iou"]),
        "interval": bootstrap_interval(records, second_records, len(label_set.id2label)) if defined else None,
        "agreement": sum(r["agreeing_pixels"] for r in records) / sum(r["all_pixels"] for r in records),
        "classes": classes,
    }


def comparison_table(comparison: dict) -> str:
    """The comparison as a table in percent, the largest differences first, for a terminal."""

    def percent(value, sign=""):
        return f"{'–':>7}" if value is None else f"{100 * value:{sign}7.2f}"

    width = max(len(row["name"]) for row in comparison["classes"])
    lines = [f"{'class':<{width}}        A        B    B − A"]
    for row in sorted(comparison["classes"], key=lambda row: -abs(row["difference"] or 0)):
        scores = f"{percent(row['first'])}  {percent(row['second'])}  {percent(row['difference'], '+')}"
        lines.append(f"{row['name']:<{width}}  {scores}")
    means = [percent(comparison[which]["mean_iou"]) for which in ("first", "second")]
    lines.append(f"{'mIoU':<{width}}  {means[0]}  {means[1]}  {percent(comparison['difference'], '+')}")
    if comparison["interval"]:
        low, high = (100 * bound for bound in comparison["interval"])
        verdict = "which leaves out 0" if low > 0 or high < 0 else "which holds 0: the difference may be chance"
        lines.append(f"95 % bootstrap interval of B − A over images: {low:+.2f} to {high:+.2f}, {verdict}")
    lines.append(f"both choose the same class in {100 * comparison['agreement']:.2f} % of the pixels")
    return "\n".join(lines)
