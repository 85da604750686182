"""The folder a training run writes to: whether it is free, which of its checkpoints are complete, and how checkpoints
and the model are written, so that whenever the run is killed, what looks complete is.
"""

import filecmp
import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.utils import logging

from ..errors import SetrError
from ..files import (
    append_lines,
    folder_lock,
    full_disk_named,
    make_folder,
    remove,
    remove_leftovers,
    removed_at_end,
    unfinished,
)
from .adapters import adapter_tensors, is_adapted
from .averaging import changing_bytes


logger = logging.get_logger(__name__)

# In the order in which they are deleted: an index without its shards does not load.
WEIGHTS_PATTERNS = ("*.safetensors.index.json", "*.safetensors", "pytorch_model*")
# `Trainer.push_to_hub` leaves out names that start like this.
COMMANDS_FILE = "_commands.txt"
MODEL_PATTERNS = (*WEIGHTS_PATTERNS, "config.json")


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is named as a run names its checkpoints."""
    return re.fullmatch(r"checkpoint-\d+", folder.name) is not None


def checkpoint_folders(output_dir: str | Path) -> list[Path]:
    """The folders `checkpoint-STEP` of a run, complete or not, in the order of their steps."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if is_checkpoint(path)]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def is_complete(checkpoint: str | Path) -> bool:
    """Whether a checkpoint was written to its end. `Trainer` writes `trainer_state.json` last; in [`SetrTrainer`] the
    processes wait for each other before that, so the file is whole only if those of all processes are.
    """
    try:
        json.loads((Path(checkpoint) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The checkpoint of the highest step that was written to its end, or `None` if there is none."""
    complete = [folder for folder in checkpoint_folders(output_dir) if is_complete(folder)]
    return str(complete[-1]) if complete else None


def note_command(output_dir: str | Path, arguments: Sequence[str]) -> None:
    """Adds the command line of a run to those in the folder's [`COMMANDS_FILE`], without the values of tokens. Other
    folders' names are in it, so that it is not uploaded.
    """
    command = "setr-hf train " + shlex.join(arguments)
    command = re.sub(r"(--\S*token)([ =])\S+", r"\1\2…", command)
    append_lines(Path(output_dir) / COMMANDS_FILE, [command])


def how_to_resume(output_dir: str | Path) -> str:
    """How a run that ended early goes on, for the line that says why it did."""
    last = last_complete_checkpoint(output_dir)
    if last is None:
        return f"{output_dir} has no complete checkpoint yet, so that it starts at the beginning"
    return f"--resume-from-checkpoint True goes on from {last}"


def remove_incomplete_checkpoints(output_dir: str | Path) -> None:
    """Deletes checkpoints that were being written when their run was killed."""
    for folder in checkpoint_folders(output_dir):
        if not is_complete(folder):
            logger.warning(f"{folder} was being written when its run ended, and is removed")
            remove(folder)


def remove_old_checkpoints(output_dir: str | Path, limit: int | None, best: str | None) -> None:
    """Deletes the checkpoints that were written first, so that at most `limit` remain: as `Trainer`, neither the last
    nor the `best` one. Each is incomplete before anything else of it is gone.
    """
    checkpoints = sorted(checkpoint_folders(output_dir), key=lambda folder: folder.stat().st_mtime)
    if not limit or limit < 0 or len(checkpoints) <= limit:
        return
    kept = {checkpoints[-1].name, Path(best or checkpoints[-1]).name}
    old = [folder for folder in checkpoints if folder.name not in kept]
    for folder in old[: len(checkpoints) - max(limit, len(kept))]:
        (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        remove(folder)


@contextmanager
def whole_checkpoint(folder: Path) -> Iterator[None]:
    """In the block, `folder` is written, and is not complete before its end: one of the same step that an earlier run
    left is not either. After an error it is deleted. Raises a [`SetrError`] that says what can be resumed if the block
    raises one, or the disk is full.
    """
    (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
    try:
        with full_disk_named(folder, folder):
            yield
    except Exception as error:
        remove(folder)
        if isinstance(error, SetrError):
            raise SetrError(f"{error}. {how_to_resume(folder.parent)}") from error
        raise


def bytes_of(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def checkpoint_bytes(model: nn.Module, optimizer: torch.optim.Optimizer | None, is_averaged: bool = False) -> int:
    """How large a checkpoint is at least: weights, or adapters instead, and what an optimizer keeps of them or, before
    its first step, will keep, as far as that is known; and the weights beside their average, if there is one.
    """
    size = bytes_of(adapter_tensors(model) if is_adapted(model) else model.state_dict())
    if optimizer is None:
        return size
    if is_averaged:
        size += changing_bytes(model)
    if optimizer.state:
        kept = (value for state in optimizer.state.values() for value in state.values())
        return size + sum(value.nbytes for value in kept if isinstance(value, torch.Tensor))
    optimizer = getattr(optimizer, "optimizer", optimizer)  # Accelerate's has the optimizer inside.
    if isinstance(optimizer, torch.optim.Adam):
        num_moments = 2
    else:
        num_moments = int(isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"] > 0)
    return size + num_moments * sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)


@contextmanager
def whole_model(folder: Path) -> Iterator[Path]:
    """Yields a folder to save a model in, whose files take the place of those in `folder` at the end of the block.
    Whenever it is killed, `folder` holds the earlier model or the new one or, for an instant and if more than the
    weights is new, no weights at all: never those of one model beside the configuration of another. Raises
    [`SetrError`] if the disk is full.
    """
    make_folder(folder)
    remove_leftovers(folder / "model")
    new = unfinished(folder / "model")
    remove(new)
    with removed_at_end(new), full_disk_named(folder, new):
        new.mkdir()
        yield new
        move_model(new, folder)


def weights_files(folder: Path) -> list[Path]:
    return [path for pattern in WEIGHTS_PATTERNS for path in sorted(folder.glob(pattern))]


def move_model(new: Path, folder: Path) -> None:
    """Moves the files of a model, the weights last."""
    weights, earlier = weights_files(new), weights_files(folder)
    places = {path: folder / path.relative_to(new) for path in sorted(new.rglob("*")) if path.is_file()}
    others = [path for path in places if path not in weights]
    changed = [
        path.name
        for path in others
        if not places[path].is_file() or not filecmp.cmp(path, places[path], shallow=False)
    ]
    only_weights = set(changed) <= {TRAINING_ARGS_NAME} and len(weights) == 1
    if not only_weights or [path.name for path in earlier] != [path.name for path in weights]:
        for path in earlier:
            path.unlink()
    for path in [*others, *reversed(weights)]:
        places[path].parent.mkdir(exist_ok=True)
        os.replace(path, places[path])


def check_unused(output_dir: str | Path) -> None:
    """Raises a [`SetrError`] if the folder holds checkpoints or a model."""
    models = [path for pattern in MODEL_PATTERNS for path in sorted(Path(output_dir).glob(pattern))]
    found = [*checkpoint_folders(output_dir), *models]
    if found:
        name = found[0].name
        raise SetrError(f"{output_dir} holds {name} of another run: resume that run, or choose another output_dir")


@contextmanager
def output_folder_lock(output_dir: str | Path, resume: bool = False) -> Iterator[None]:
    """As [`folder_lock`], for a run; if it is distributed, only the main process holds the lock. Raises [`SetrError`]
    too if the folder holds checkpoints or a model, and `resume` is off.
    """
    if not PartialState().is_main_process:
        yield
        return
    with folder_lock(Path(output_dir)):
        if not resume:
            check_unused(output_dir)
        yield
