"""An exponential moving average of the weights, which is evaluated and saved in their place."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerState
from transformers.utils import logging

from ..errors import SetrError


logger = logging.get_logger(__name__)

# In a checkpoint, beside the average: the weights that training goes on from.
TRAINING_WEIGHTS_NAME = "training_weights.safetensors"
# The share of the average that the first weights may still be at the end of a run, without a warning, and with advice.
MOST_OF_FIRST, ADVISED_OF_FIRST = 0.1, 0.01


def changing_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """What training changes: trainable parameters, and buffers of floating-point numbers, such as the running
    statistics of BatchNorm, by name.
    """
    tensors: dict[str, torch.Tensor] = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    return tensors | {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}


def changing_bytes(model: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in changing_tensors(model).values())


class WeightAverage(TrainerCallback):
    """The average of the weights of a run. With W(t) the weights after t steps of the optimizer and d the decay,

        E(0) = W(0),   E(t) = d · E(t − 1) + (1 − d) · W(t),

    so that E(t) looks back over about 1 / (1 − d) steps. Running statistics of BatchNorm are averaged likewise, as in
    timm's `ModelEmaV3` and torchvision's reference code: they belong to the weights of the same steps. PyTorch's
    `AveragedModel`, whose function of averaging this uses, starts from W(1), and copies the whole model.

    At the end of training the average takes the place of the weights for good.

    Args:
        decay (`float`): d, above 0 and below 1.

    Attributes:
        checkpoint (`Path`, *optional*): What the run is resumed from: its model holds the average, and its file
            `training_weights.safetensors` the weights.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average_into = get_ema_multi_avg_fn(decay)
        self.checkpoint: Path | None = None
        self.weights: dict[str, torch.Tensor] = {}
        self.averages: dict[str, torch.Tensor] = {}
        self.is_in_place = False

    def on_train_begin(
        self, args: Any, state: TrainerState, control: Any, model: nn.Module | None = None, **kwargs: Any
    ) -> None:
        assert model is not None
        self.weights = changing_tensors(model)
        self.averages = {name: tensor.detach().clone() for name, tensor in self.weights.items()}
        if self.checkpoint is not None:
            stored = load_file(self.checkpoint / TRAINING_WEIGHTS_NAME)
            for name, tensor in self.weights.items():
                tensor.data.copy_(stored[name])
        share, steps = self.decay**state.max_steps, state.max_steps
        if share > MOST_OF_FIRST and state.is_world_process_zero:
            logger.warning(
                f"After {steps} steps with ema={self.decay:g}, {share:.0%} of the average are still the weights that "
                f"the run started from; with {ADVISED_OF_FIRST ** (1 / steps):.2g} it would be {ADVISED_OF_FIRST:.0%}"
            )

    def on_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        # Tensors of each type by themselves, as in `AveragedModel`.
        for dtype in {average.dtype for average in self.averages.values()}:
            names = [name for name, average in self.averages.items() if average.dtype == dtype]
            averages = [self.averages[name] for name in names]
            self.average_into(averages, [self.weights[name].detach() for name in names], 0)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self.exchange()
        self.forget()

    def exchange(self) -> None:
        for name, tensor in self.weights.items():
            tensor.data, self.averages[name] = self.averages[name], tensor.data

    def forget(self) -> None:
        """Leaves the model with the weights that it has."""
        self.weights, self.averages, self.checkpoint = {}, {}, None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """In the block, and blocks within it, the model has the average in the place of its weights."""
        if self.is_in_place:
            yield
            return
        self.exchange()
        self.is_in_place = True
        try:
            yield
        finally:
            self.is_in_place = False
            self.exchange()

    def save_weights(self, checkpoint: Path) -> None:
        """Writes the weights, beside the average, which is the checkpoint's model."""
        weights = {name: tensor.detach().contiguous() for name, tensor in self.weights.items()}
        # A second entry would come before or after it by chance, and the files of equal runs would differ.
        save_file(weights, checkpoint / TRAINING_WEIGHTS_NAME, {"ema": repr(self.decay)})


def check_average(checkpoint: Path, decay: float | None) -> None:
    """Raises a [`SetrError`] if a checkpoint is of a run with another average, or none."""
    path = checkpoint / TRAINING_WEIGHTS_NAME
    stored = None
    if path.exists():
        with safe_open(path, "pt") as file:
            stored = (file.metadata() or {}).get("ema")
    if stored != (None if decay is None else repr(decay)):
        earlier = "no average of the weights" if stored is None else f"an average of the weights with ema={stored}"
        raise SetrError(
            f"{checkpoint} is of a run with {earlier}, now ema is {decay}: resume with the earlier setting, or start "
            "a run in another output folder from its weights (--model)"
        )
