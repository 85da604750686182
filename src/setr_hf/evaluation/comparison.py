"""Two models on the same images: differences of IoU with an interval for each, and agreement."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from ..data.label_sets import LabelSet
from ..data.rows import Sample
from ..metrics import class_ious, mean_over_classes
from ..tables import percent, print_table
from .records import MOST_PIXELS, Records, are_numbers, check_sample_record, sample_record, sum_records
from .results import images_counted, summarize


# With 5,000 images, 4 MB.
DRAWS_AT_ONCE = 100


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


def check_comparison_record(record: dict, num_labels: int, has_annotations: bool) -> None:
    """As [`check_sample_record`], for what [`comparison_record`] returns."""
    check_sample_record(record, num_labels, has_annotations)
    check_sample_record(record["second"], num_labels, has_annotations)
    agreeing, total = record["agreeing_pixels"], record["all_pixels"]
    if not are_numbers([agreeing, total - 1], 0, MOST_PIXELS) or agreeing > total:
        raise ValueError("agreeing_pixels and all_pixels must be numbers of pixels")


def class_areas(records: Iterable[dict], num_labels: int) -> np.ndarray:
    """In how many pixels each class is right, labelled and predicted in each image, float64 of shape
    `(3, num_images, num_labels)`.
    """
    matrices = (sum_records([record], num_labels) for record in records)
    # Integers stay exact in float64 up to 2^53.
    areas = [np.array([m.diagonal(), m.sum(axis=1), m.sum(axis=0)], dtype=np.float64) for m in matrices]
    return np.stack(areas, axis=1)


def bootstrap_intervals(
    first: Iterable[dict], second: Iterable[dict], num_labels: int, draws: int = 2000, seed: int = 0
) -> list[tuple[float, float] | None]:
    """The 95 % percentile intervals of second − first of each class's IoU and, the last one, of the mIoU, as
    fractions, over sets of images drawn with replacement (Efron's bootstrap); `None` for a class without a score. Both
    models are scored on the same draws. `first` and `second` are records of the same images, which have annotations,
    in the same order.
    """
    rng, areas = np.random.default_rng(seed), [class_areas(records, num_labels) for records in (first, second)]
    count = areas[0].shape[1]
    differences = []
    for start in range(0, draws, DRAWS_AT_ONCE):
        size = min(DRAWS_AT_ONCE, draws - start)
        image_counts = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        ious = [class_ious(*(image_counts @ part)) for part in areas]
        scores = [np.column_stack([iou, mean_over_classes(iou)]) for iou in ious]
        differences.append(scores[1] - scores[0])
    intervals: list[tuple[float, float] | None] = []
    for values in np.concatenate(differences).T:
        known = values[~np.isnan(values)]
        low, high = np.percentile(known, [2.5, 97.5]).tolist() if len(known) else (np.nan, np.nan)
        intervals.append((low, high) if len(known) else None)
    return intervals


def second_records(records: Iterable[dict]) -> Iterator[dict]:
    """The second model's part of [`comparison_record`]s, in the form of the first one's."""
    return ({**record, **record["second"]} for record in records)


def compare_records(records: Records | Sequence[dict], label_set: LabelSet, bad_samples: Sequence[dict] = ()) -> dict:
    """What the [`comparison_record`]s of a data set say: the scores of both models (`first`, `second`), see
    [`summarize`]; `difference` = second − first of the mIoU and, in `classes`, of each class's IoU (`None` where the
    class is absent for one of them); the bootstrap `interval` of each difference; and `agreement`, the share of pixels
    for which both choose the same class.
    """
    first, second = (summarize(part, label_set, bad_samples)[0] for part in (records, second_records(records)))
    num_labels = len(label_set.names)
    has_pixels = first["num_pixels"] > 0
    intervals: list[tuple[float, float] | None] = [None] * (num_labels + 1)
    if has_pixels:
        intervals = bootstrap_intervals(records, second_records(records), num_labels)
    agreeing, total = np.sum([(record["agreeing_pixels"], record["all_pixels"]) for record in records], axis=0)

    def difference(one: float | None, other: float | None) -> float | None:
        return None if one is None or other is None else other - one

    return {
        "first": first,
        "second": second,
        "difference": difference(first["mean_iou"], second["mean_iou"]),
        "interval": intervals[-1],
        "agreement": float(agreeing / total),
        "classes": [
            {
                "name": a["name"],
                "first": a["iou"],
                "second": b["iou"],
                "difference": difference(a["iou"], b["iou"]),
                "interval": interval,
            }
            for a, b, interval in zip(first["classes"], second["classes"], intervals)
        ],
    }


def print_comparison(comparison: dict) -> None:
    """Prints the IoU of each class for both models in percent, the largest differences first, and the mIoU."""

    def bounds(interval: tuple[float, float] | None) -> str:
        return f"{percent(interval[0], '+')} to {percent(interval[1], '+')}" if interval else ""

    classes = sorted(comparison["classes"], key=lambda row: -abs(row["difference"] or 0))
    means = {which: comparison[which]["mean_iou"] for which in ("first", "second")}
    differences = {name: comparison[name] for name in ("difference", "interval")}
    cells = (
        (
            row["name"],
            percent(row["first"]),
            percent(row["second"]),
            percent(row["difference"], "+"),
            bounds(row["interval"]),
        )
        for row in [*classes, {"name": "mIoU", **means, **differences}]
    )
    print_table(("class", "A", "B", "B − A", "95 % interval"), cells)
    if comparison["interval"]:
        low, high = comparison["interval"]
        verdict = "which excludes 0" if low > 0 or high < 0 else "which contains 0: the difference may be chance"
        print(f"95 % bootstrap interval of B − A of the mIoU over images: {bounds((low, high))}, {verdict}")
    images = images_counted(comparison["first"])
    print(f"both choose the same class in {percent(comparison['agreement'])} % of the pixels of {images}")
