"""What a run goes on from: a checkpoint that is whole, of the same network and of the same settings."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, CONFIG_NAME, SAFE_WEIGHTS_NAME

from ..checkpoints.reading import check_torch_archive
from ..errors import SetrError
from ..inference.loading import ADAPTER_FOLDER, read_object
from .adapters import adapter_tensors, check_adapter, is_adapted
from .averaging import TRAINING_WEIGHTS_NAME, changing_tensors, check_average


# As `Trainer` calls them, alone, sharded by FSDP, and with DeepSpeed.
PARTS = {
    "weights": ("model*.safetensors", f"{ADAPTER_FOLDER}/*.safetensors", "pytorch_model*", "global_step*"),
    "state of the optimizer": ("optimizer*", "global_step*"),
    "state of the schedule": ("scheduler.pt", "global_step*"),
    "state of the random numbers": ("rng_state*.pth",),
}
# Of a parameter group: its rate by now, and how its steps are computed.
NOT_ASKED_FOR = {"params", "param_names", "lr", "foreach", "fused", "capturable", "differentiable"}
RESUMED_OTHERWISE = (
    "resume with the earlier settings, or start a run in another output folder from its weights (--model)"
)


def check_checkpoint(folder: Path, model: nn.Module, ema: float | None = None) -> None:
    """Raises a [`SetrError`] if a checkpoint lacks a part, which `Trainer` begins anew without a word, a file is not
    whole, its weights are not those of `model`, of which `Trainer` leaves the rest as they are, or were averaged with
    another decay than `ema`.
    """
    for part, patterns in PARTS.items():
        files = [path for pattern in patterns for path in folder.glob(pattern)]
        if not files:
            raise SetrError(
                f"{folder} holds no {part} and cannot be resumed: resume an earlier checkpoint, or start a run in "
                "another output folder from its weights (--model)"
            )
        for path in files:
            if path.suffix in (".pt", ".pth"):
                try:
                    check_torch_archive(path)
                except SetrError as error:
                    raise damaged(path, str(error)) from error
    if (folder / CONFIG_NAME).exists():
        read_object(folder / CONFIG_NAME)
    adapter = folder / ADAPTER_FOLDER
    if adapter.is_dir() != is_adapted(model):
        raise SetrError(
            f"{folder} is of a run {'with' if adapter.is_dir() else 'without'} LoRA adapters: resume it as such a run"
        )
    hint = "resume it with its own --model or --config and data"
    if is_adapted(model):
        check_adapter(model, adapter)
        check_tensors(adapter / ADAPTER_SAFE_WEIGHTS_NAME, adapter_tensors(model), hint)
        return
    every, changing = model.state_dict(), changing_tensors(model)
    for name, wanted in {SAFE_WEIGHTS_NAME: every, TRAINING_WEIGHTS_NAME: changing}.items():
        if (folder / name).exists():
            check_tensors(folder / name, wanted, hint)
    check_average(folder, ema)


def check_tensors(path: Path, wanted: dict[str, torch.Tensor], hint: str) -> None:
    """Raises a [`SetrError`] if a safetensors file is damaged, or its tensors are not those that are `wanted`, by
    names and shapes; `hint` says what to do.
    """
    stored, shapes = stored_shapes(path), {name: list(tensor.shape) for name, tensor in wanted.items()}
    different = sorted(name for name in {*stored, *shapes} if stored.get(name) != shapes.get(name))
    if different:
        raise SetrError(
            f"{path} holds the weights of another network: {len(different)} tensors are missing, left over or of "
            f"another shape, such as {different[0]}: {hint}"
        )


def stored_shapes(path: Path) -> dict[str, list[int]]:
    """The shapes of the tensors in a safetensors file. Raises [`SetrError`] if it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, reason: str) -> SetrError:
    return SetrError(f"{path} is damaged ({reason}): remove {path.parent}, and the checkpoint before it is resumed")


def group_settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What was asked for of each parameter group."""
    return [
        {key: value for key, value in group.items() if key not in NOT_ASKED_FOR} for group in optimizer.param_groups
    ]


def check_same_settings(asked: list[dict[str, Any]], loaded: list[dict[str, Any]], checkpoint: str) -> None:
    """Raises a [`SetrError`] if the [`group_settings`] that a checkpoint brought along are not those `asked` for."""
    changes = []
    for key in sorted({key for group in [*asked, *loaded] for key in group}):
        earlier, now = (sorted({str(group.get(key, "unset")) for group in groups}) for groups in (loaded, asked))
        if earlier != now:
            name = "learning_rate" if key == "initial_lr" else key
            changes.append(f"{name} was {' and '.join(earlier)}, now {' and '.join(now)}")
    if changes:
        raise SetrError(f"{checkpoint} is of a run with other settings ({'; '.join(changes)}): {RESUMED_OTHERWISE}")
