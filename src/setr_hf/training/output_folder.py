"""The folder a training run writes to: whether it is free, and which of its checkpoints are complete."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from ..errors import SetrError
from ..files import folder_lock


logger = logging.get_logger(__name__)

MODEL_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*", "config.json")


def checkpoint_folders(output_dir: str | Path) -> list[Path]:
    """The folders `checkpoint-STEP` of a run, complete or not, in the order of their steps."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
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
            shutil.rmtree(folder)


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
