"""Mean IoU; this folder is also what `evaluate.load` reads, so the code is in the file of the folder's name."""

from .metrics import MeanIou, confusion_matrix, segmentation_scores


__all__ = ["MeanIou", "confusion_matrix", "segmentation_scores"]
