"""Mean IoU. `evaluate.load` reads this folder, and expects the metric in a file named after it."""

from typing import Any

from .confusion import class_ious, confusion_matrix, mean_over_classes, segmentation_scores


def __getattr__(name: str) -> Any:
    # Only the metric needs the `evaluate` package, and is loaded on first use: in a program started from `scripts`,
    # that name would find `scripts/evaluate.py`.
    if name == "MeanIou":
        from .metrics import MeanIou

        return MeanIou
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["MeanIou", "class_ious", "confusion_matrix", "mean_over_classes", "segmentation_scores"]
