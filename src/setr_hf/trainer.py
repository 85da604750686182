"""`Trainer` with the paper's test protocol as its evaluation."""

from collections.abc import Callable

import numpy as np
import torch
from transformers import EvalPrediction, Trainer

from .inference import segment
from .metrics import confusion_matrix, segmentation_scores


class MeanIouOfMatrices:
    """`compute_metrics` of [`SetrTrainer`]: scores of the sum of all confusion matrices."""

    def __init__(self):
        self.total = 0

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        self.total = self.total + np.asarray(prediction.predictions).sum(axis=0)
        if not compute_result:
            return {}
        scores = segmentation_scores(self.total)
        self.total = 0
        return {name: scores[name] for name in ("mean_iou", "mean_accuracy", "overall_accuracy")}


class SetrTrainer(Trainer):
    """
    `Trainer` that evaluates label maps at the photographs' original sizes: those of the stock pipeline. What it
    gathers from processes and batches is one confusion matrix for each image, not its logits, so photographs may
    differ in size. There is no evaluation loss.

    Args:
        processing_class ([`SetrImageProcessor`]): The processor whose windows the evaluation uses.
        eval_dataset: With the columns `photo` and `label_map`, see [`~setr_hf.training.evaluation_examples`].
        compute_metrics (`Callable`, *optional*): Takes the matrices `(num_images, num_labels, num_labels)`, rows the
            true class, as `predictions`; by default [`MeanIouOfMatrices`].
        args, kwargs: As of `Trainer`; set `remove_unused_columns=False`.
    """

    def __init__(self, *args, compute_metrics: Callable | None = None, **kwargs):
        super().__init__(*args, compute_metrics=compute_metrics or MeanIouOfMatrices(), **kwargs)
        if self.args.remove_unused_columns:
            raise ValueError("set remove_unused_columns=False in TrainingArguments: photographs are no model input")
        self.args.batch_eval_metrics = True

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """No loss, a confusion matrix for each image, and zeros in the place of labels, which a matrix counts."""
        model = self.accelerator.unwrap_model(model)
        label_maps = segment(model, self.processing_class, inputs["photo"])
        matrices = [
            confusion_matrix(label_map, labels, model.config.num_labels)
            for label_map, labels in zip(label_maps, inputs["label_map"])
        ]
        matrices = torch.from_numpy(np.stack(matrices)).to(self.args.device)
        return None, matrices, torch.zeros(len(matrices), dtype=torch.long, device=self.args.device)


__all__ = ["SetrTrainer"]
