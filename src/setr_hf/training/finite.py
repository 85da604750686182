"""Training stops at the first loss or gradient that is not finite, and says what it came from."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from torch.distributed.tensor import DTensor

from ..errors import SetrError


# The key of the names in a batch, as long as it is on its way from the loader to the training step.
NAMES = "_names"
NAME_BYTES = 200
NUM_NAMED = 8
# A `GradScaler` halves its scale at each step that it skips: by now from its first 65,536 to nearly nothing.
MOST_SKIPPED_STEPS = 30


def encoded_names(names: Iterable[str]) -> torch.Tensor:
    """Names as uint8 of shape `(batch_size, NAME_BYTES)`: loaders of several processes cut and join tensors alone."""
    cut = [name.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0") for name in names]
    return torch.frombuffer(bytearray(b"".join(cut)), dtype=torch.uint8).view(-1, NAME_BYTES)


def decoded_names(encoded: torch.Tensor | None) -> list[str]:
    rows: Iterable[np.ndarray] = [] if encoded is None else encoded.cpu().numpy()
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


@dataclass(frozen=True)
class NamedBatches:
    """A collator that puts the names of the examples beside the batch that `collate` makes of the rest of them."""

    collate: Callable[[list], Any]

    def __call__(self, examples: list) -> Any:
        if not isinstance(examples[0], Mapping) or "name" not in examples[0]:
            return self.collate(examples)
        batch = self.collate([{key: example[key] for key in example if key != "name"} for example in examples])
        return {**batch, NAMES: encoded_names(example["name"] for example in examples)}


def spread_to_gradients(loss: torch.Tensor) -> torch.Tensor:
    """The loss; if it is not finite, neither are its gradients, which processes add up: it then shows in the norm that
    all of them know, and no process has to ask the others, or wait for its GPU, at every batch.
    """
    return loss * torch.where(torch.isfinite(loss), 1.0, math.inf)


class FiniteSteps:
    """Checks each step of the optimizer before it changes the weights."""

    def __init__(self) -> None:
        self.batches: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self.num_skipped = 0

    def add(self, loss: torch.Tensor, names: torch.Tensor | None) -> None:
        """A batch of the step that is being accumulated: its loss, a scalar, and its [`encoded_names`]."""
        self.batches.append((loss, names))

    def check(self, norm: torch.Tensor | float, step: int, optimizer: torch.optim.Optimizer, is_scaled: bool) -> None:
        """Raises a [`SetrError`], in all processes, if the norm of the gradients or a loss of this step is not finite.
        With a `GradScaler` (`is_scaled`), which skips steps whose gradients overflow, so many of them in a row are an
        error, and a loss. Of a GPU, the norm is what is waited for.
        """
        batches, self.batches = self.batches, []
        norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if math.isfinite(norm):
            self.num_skipped = 0
            return
        everyones = gather_object([(loss.sum().item(), decoded_names(names)) for loss, names in batches])
        bad = [(loss, names) for loss, names in everyones if not math.isfinite(loss)]
        if is_scaled and not bad:
            self.num_skipped += 1
            if self.num_skipped < MOST_SKIPPED_STEPS:
                return
        loss = bad[0][0] if bad else sum(loss for loss, _ in everyones) / PartialState().num_processes
        in_a_row = f", for {self.num_skipped} steps in a row" if self.num_skipped else ""
        rates = " and ".join(sorted({f"{float(group['lr']):g}" for group in optimizer.param_groups}))
        names = [name for _, batch in bad or everyones for name in batch]
        more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
        raise SetrError(
            f"training stopped at step {step}, before it changed the weights: the loss is {loss:g} and the gradient "
            f"norm {norm:g}{in_a_row}, at a learning rate of {rates}, in a batch of "
            f"{', '.join(names[:NUM_NAMED]) or 'samples without names'}{more}. Try a lower learning_rate, "
            "max_grad_norm=1, or bf16 instead of fp16; if it is always these samples, look at them. Checkpoints of "
            "earlier steps are as they were"
        )


def check_finite_weights(model: nn.Module, where: str, is_sharded: bool) -> None:
    """Raises a [`SetrError`] that calls the model `where` if a parameter or buffer holds NaN or infinity. Of a model
    that `is_sharded`, all processes call this.
    """
    tensors = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors.values()]
    are_finite = torch.stack([tensor.isfinite().all() for tensor in local]).tolist()
    bad = [name for name, is_finite in zip(tensors, are_finite) if not is_finite]
    if is_sharded:
        bad = gather_object(bad)
    if bad:
        raise SetrError(
            f"{where} is not saved: {len(set(bad))} of its {len(tensors)} tensors, such as {bad[0]}, hold NaN or "
            "infinity. Resume an earlier checkpoint, with a lower learning_rate or without fp16"
        )
