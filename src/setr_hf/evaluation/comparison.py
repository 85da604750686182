"""Two models on the same images: differences of the classes, agreement, and an interval for the difference of mIoU."""

import numpy as np
import torch

from ..data.label_sets import LabelSet
from ..data.rows import Sample
from ..metrics import class_ious, mean_over_classes
from ..tables import percent, print_table
from .records import sample_record, sum_records
from .results import summarize


def comparison_record(sample: Sample, first: torch.Tensor, second: torch.Tensor, num_labels: int) -> dict:
    """The record of a sample that two models have segmented: the first one's confusion matrix, the second one's under
    `second`, and in how many of all pixels, ignored ones included, both chose the same class. `first` and `second` are
    predicted label maps of shape `(height, width)`.
    """
    return {
        **sample_record(sample, first, num_labels),
        "second": sample_record(sample, second, num_labels),
        "agreeing_pixels": int((first == second).sum()),
        "all_pixels": first.numel(),
    }


def bootstrap_interval(
    first: list[dict], second: list[dict], num_labels: int, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of mIoU(second) − mIoU(first), as fractions, over sets of images drawn with
    replacement (Efron's bootstrap). Both models are scored on the same draws. `first` and `second` are records of the
    same images, which have annotations, in the same order.
    """
    rng, count = np.random.default_rng(seed), len(first)
    image_counts = rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)
    mean_ious = []
    for records in (first, second):
        matrices = [sum_records([record], num_labels) for record in records]
        areas = [[matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)] for matrix in matrices]
        # Integers stay exact in float64 up to 2^53.
        drawn = image_counts @ np.array(areas, dtype=np.float64).transpose(1, 0, 2)
        mean_ious.append(mean_over_classes(class_ious(*drawn)))
    low, high = np.nanpercentile(mean_ious[1] - mean_ious[0], [2.5, 97.5])
    return float(low), float(high)


def compare_records(records: list[dict], label_set: LabelSet) -> dict:
    """What the [`comparison_record`]s of a data set say: the scores of both models (`first`, `second`), `difference` =
    second − first of the mIoU and, in `classes`, of each class's IoU (`None` where the class is absent for one of
    them), the bootstrap `interval`, and `agreement`, the share of pixels for which both choose the same class.
    """
    second_records = [{**record, **record["second"]} for record in records]
    first, second = (summarize(part, label_set)[0] for part in (records, second_records))

    def difference(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else other - one

    return {
        "first": first,
        "second": second,
        "difference": difference(first["mean_iou"], second["mean_iou"]),
        "interval": bootstrap_interval(records, second_records, len(label_set.names)) if first["num_pixels"] else None,
        "agreement": sum(r["agreeing_pixels"] for r in records) / sum(r["all_pixels"] for r in records),
        "classes": [
            {"name": a["name"], "first": a["iou"], "second": b["iou"], "difference": difference(a["iou"], b["iou"])}
            for a, b in zip(first["classes"], second["classes"])
        ],
    }


def print_comparison(comparison: dict) -> None:
    """Prints the IoU of each class for both models in percent, the largest differences first, and the mIoU."""
    classes = sorted(comparison["classes"], key=lambda row: -abs(row["difference"] or 0))
    means = {which: comparison[which]["mean_iou"] for which in ("first", "second")}
    rows = [*classes, {"name": "mIoU", **means, "difference": comparison["difference"]}]
    cells = (
        (row["name"], percent(row["first"]), percent(row["second"]), percent(row["difference"], "+")) for row in rows
    )
    print_table(("class", "A", "B", "B − A"), cells)
    if comparison["interval"]:
        low, high = comparison["interval"]
        verdict = "which excludes 0" if low > 0 or high < 0 else "which contains 0: the difference may be chance"
        print(f"95 % bootstrap interval of B − A over images: {percent(low, '+')} to {percent(high, '+')}, {verdict}")
    print(f"both choose the same class in {percent(comparison['agreement'])} % of the pixels")
