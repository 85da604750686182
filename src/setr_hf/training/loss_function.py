"""The losses as `compute_loss_func` of the stock `Trainer`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..model.combined_losses_setr import semantic_loss
from ..model.configuration_setr import SetrConfig
from ..model.loss_settings_setr import LossSettings


# What `Trainer` leaves out when it counts the items of a step, whatever the model ignores.
NOT_COUNTED = -100


def covered_side(num_rows: int, side: int, patch_size: int) -> int:
    """Pixels of an image with `side` that `num_rows` rows of logits cover, which a SETR has cut to the image: up to
    the end of their last one.
    """
    rows_per_patch = (num_rows - 1) * patch_size // side + 1
    return -(-num_rows * patch_size // rows_per_patch)


def loss_of_outputs(
    outputs: Any,
    labels: torch.Tensor | None,
    num_items_in_batch: torch.Tensor | int | None = None,
    *,
    settings: LossSettings,
    patch_size: int | None = None,
    auxiliary_weight: float = 0.0,
) -> torch.Tensor:
    """The loss of a model's `outputs`, see [`loss_function`]."""
    if labels is None:
        raise ValueError("the loss needs labels: the batches have none")
    height, width = labels.shape[1:]
    losses = []
    for logits in (outputs["logits"], *(outputs.get("auxiliary_logits") or ())):
        size = (height, width)
        if patch_size is not None:
            rows, columns = logits.shape[2:]
            size = (covered_side(rows, height, patch_size), covered_side(columns, width, patch_size))
        losses.append(semantic_loss(logits, labels.long(), size, settings))
    loss = losses[0]
    for auxiliary_loss in losses[1:]:
        loss = loss + auxiliary_weight * auxiliary_loss
    if num_items_in_batch is None:
        return loss
    return loss * (labels != NOT_COUNTED).sum() / num_items_in_batch


def loss_function(settings: SetrConfig | LossSettings) -> Callable[..., torch.Tensor]:
    """A `compute_loss_func` of the stock `Trainer`, for SETR and for other models that return class scores as
    `logits`, of any resolution, and whose labels are maps of class ids.

    In a step over several accumulated batches, each counts by its share of the pixels. Of the auxiliary heads of a
    SETR, which then has no labels to call them by, the loss is added if the batches hold
    `output_auxiliary_logits=True`. It is that of the model itself for photos of whole patches; in others a SETR cuts
    its logits, and pixels beside the cut differ slightly.

    Args:
        settings ([`SetrConfig`] or [`LossSettings`]): Of a SETR, or the losses alone.

    Returns:
        A function of `outputs`, `labels` of shape `(batch_size, height, width)` and `num_items_in_batch`, which can be
        pickled.

    Raises:
        `ValueError`: in a call, if there are no labels, or the settings do not suit the number of logits.

    Example:

    ```python
    >>> import torch
    >>> from setr_hf import LossSettings, loss_function

    >>> compute_loss_func = loss_function(LossSettings({"cross_entropy": 1.0, "dice": 0.5}))
    >>> outputs = {"logits": torch.zeros(1, 3, 8, 8)}
    >>> compute_loss_func(outputs, torch.zeros(1, 32, 32, dtype=torch.long))
    tensor(1.1819)
    >>> # Trainer(model, args, compute_loss_func=compute_loss_func, …)
    ```
    """
    if isinstance(settings, LossSettings):
        return partial(loss_of_outputs, settings=settings)
    return partial(
        loss_of_outputs,
        settings=LossSettings.from_config(settings),
        patch_size=settings.patch_size,
        auxiliary_weight=settings.auxiliary_loss_weight,
    )
