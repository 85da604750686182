"""Mean IoU; this folder is also what `evaluate.load` reads, so the metric is in the file of the folder's name."""

from .confusion import class_ious, confusion_matrix, mean_over_classes, segmentation_scores


def __getattr__(name):
    # The metric alone needs the `evaluate` package, and is loaded when asked for: in a program started as
    # `scripts/evaluate.py` or beside it, that name would find the script.
    if name == "MeanIou":
        from .metrics import MeanIou

        return MeanIou
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["MeanIou", "class_ious", "confusion_matrix", "mean_over_classes", "segmentation_scores"]
