"""Mean intersection over union of label maps, as a streaming metric that holds one confusion matrix."""

from typing import Any

import datasets
import evaluate
import numpy as np

from .confusion import confusion_matrix, segmentation_scores


DESCRIPTION = """
Mean intersection over union (IoU) of semantic segmentation, with the IoU, accuracy and Dice score of each class, pixel
accuracy, mean accuracy and frequency-weighted IoU. Intersections and unions are summed over the whole data set as
exact integers before anything is divided, so neither the order nor the size of the batches matters.
"""

INPUTS_DESCRIPTION = """
Args:
    predictions: A label map for each image: integer class ids from 0 to `num_labels - 1`, shape `(height, width)`.
        Arrays, tensors, PIL images or nested lists; images may differ in size.
    references: The true label map of each image, of the same size, holding class ids or `ignore_index`.
    num_labels (`int`): Number of classes. Pass this and the next two to `evaluate.load`, or to `compute` if nothing
        was added before.
    ignore_index (`int`, defaults to 255): Value of references where nothing is counted.
    reduce_labels (`bool`, defaults to `False`): Whether references hold 0 for "other", which is ignored, and k for
        class k − 1. Leave it off if a loader or an image processor has reduced them already.
Returns:
    `mean_iou`, `mean_accuracy`, `mean_dice`, `overall_accuracy`, `frequency_weighted_iou` (`float`, 0 to 1);
    `per_category_iou`, `per_category_accuracy`, `per_category_dice` (arrays of `num_labels`);
    `absent_classes`: ids that are neither labelled nor predicted; their IoU and Dice are NaN and not in the means;
    `unlabelled_classes`: ids without a labelled pixel; their accuracy is NaN and not in the mean;
    `num_absent_classes`; `num_pixels`, how many were counted; and the settings.
"""

CITATION = "Zheng et al., Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective, CVPR 2021"


class MeanIou(evaluate.Metric):
    """Streaming mean IoU. `add` and `add_batch` count pixels and keep no image; `compute` returns the scores and
    starts again. Several processes `merge` their `matrix`, an int64 array of shape `(num_labels, num_labels)` that is
    `None` before the first image, or sum it, for example with `accelerator.reduce`.

    Raises:
        `ValueError`: see [`confusion_matrix`]; or settings are missing, or change after images were added.

    Example:

    ```python
    >>> from setr_hf.metrics import MeanIou

    >>> metric = MeanIou(num_labels=2)
    >>> metric.add(prediction=[[0, 1]], reference=[[0, 0]])
    >>> metric.compute()["per_category_iou"]
    array([0.5, 0. ])
    ```
    """

    def __init__(
        self,
        *args: Any,
        num_labels: int | None = None,
        ignore_index: int = 255,
        reduce_labels: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if self.num_process > 1:
            raise ValueError("this metric does not use files between processes (num_process): merge their matrices")
        settings = {"num_labels": num_labels, "ignore_index": ignore_index, "reduce_labels": reduce_labels}
        self.settings: dict[str, Any] = settings
        self.reset()

    def _info(self) -> evaluate.MetricInfo:
        label_maps = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": label_maps, "references": label_maps}),
            reference_urls=["https://arxiv.org/abs/2012.15840"],
        )

    def __len__(self) -> int:
        """Number of images added here since the last `compute`."""
        return self.num_images

    def reset(self) -> None:
        """Forgets what was added."""
        self.matrix: np.ndarray | None = None
        self.num_images = 0

    def add(self, *, prediction: Any = None, reference: Any = None) -> None:
        """Counts the pixels of one image."""
        if not self.settings["num_labels"]:
            raise ValueError("num_labels is not known: evaluate.load(…, num_labels=150) or compute(…, num_labels=150)")
        try:
            matrix = confusion_matrix(prediction, reference, **self.settings)
        except ValueError as error:
            raise ValueError(f"image {self.num_images}: {error}") from error
        self.merge(matrix)
        self.num_images += 1

    def add_batch(self, *, predictions: Any = None, references: Any = None) -> None:
        """Counts the pixels of a list of images, or of arrays of shape `(batch_size, height, width)`."""
        if len(predictions) != len(references):
            raise ValueError(f"got {len(predictions)} predictions and {len(references)} references")
        for prediction, reference in zip(predictions, references):
            self.add(prediction=prediction, reference=reference)

    def merge(self, matrix: Any) -> None:
        """Adds what another process has counted, integers of shape `(num_labels, num_labels)`, truth in the rows."""
        matrix = np.asarray(matrix.cpu() if hasattr(matrix, "cpu") else matrix)
        num_labels = self.settings["num_labels"] or len(matrix)
        if matrix.shape != (num_labels, num_labels) or matrix.dtype.kind not in "ui":
            shape = (num_labels, num_labels)
            raise ValueError(f"expected an integer matrix of shape {shape}, got {matrix.dtype} {matrix.shape}")
        self.settings["num_labels"] = num_labels
        self.matrix = matrix.astype(np.int64) if self.matrix is None else self.matrix + matrix.astype(np.int64)

    def compute(self, *, predictions: Any = None, references: Any = None, **settings: Any) -> dict:
        """Adds the given images, if any, returns the scores of all that were added, and starts again."""
        unknown = sorted(set(settings) - set(self.settings))
        if unknown:
            raise ValueError(f"unknown settings {unknown}: this metric takes {', '.join(self.settings)}")
        changed = {name: value for name, value in settings.items() if value != self.settings[name]}
        if changed and self.matrix is not None:
            raise ValueError(f"pixels were counted with {self.settings}: {changed} must be given to evaluate.load")
        self.settings.update(changed)
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        if self.matrix is None:
            raise ValueError("nothing to compute: no image was added")
        scores = {**segmentation_scores(self.matrix), **self.settings}
        self.reset()
        return scores
