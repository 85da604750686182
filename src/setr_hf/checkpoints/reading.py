"""Reads weights from files of any origin without running anything that is in them."""

import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..errors import SetrError


class SteppedOver:
    """Takes the place of a training loop's object in a loaded file; its pickled state is dropped."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# What training loops pickle beside the weights: mmengine's message hub, with NumPy values in it, whose HistoryBuffer
# names its methods through `getattr`. Each becomes a `SteppedOver`; none of these names is imported.
STEPPED_OVER = ["mmengine.logging.history_buffer.HistoryBuffer", "argparse.Namespace", "builtins.getattr"]
STEPPED_OVER += ["numpy.ndarray", "numpy.dtype", "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar"]
STEPPED_OVER += ["numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar"]
# Dictionaries with attribute access; class names may stand in them.
READ_AS_DICTIONARY = ("mmengine.config.config.ConfigDict", "mmcv.utils.config.ConfigDict", "addict.addict.Dict")
NESTED_STATE_DICTS = ("state_dict", "model", "model_state_dict")


def check_looks_loadable(path: Path) -> None:
    """Raises a [`SetrError`] if `path`, judged by its first bytes, is not a file of weights; says what it is."""
    if not path.is_file():
        raise SetrError(f"{path} is not a file")
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise SetrError(f"{path} is empty: the download failed")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise SetrError(f"{path} is a web page (HTML or XML), not a checkpoint: download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise SetrError(f"{path} is a Git LFS pointer, not a checkpoint: fetch the file with `git lfs pull`")
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise SetrError(f"{path} is truncated: the end of the archive is missing. Download it again")


def load_torch_file(path: Path) -> Any:
    """The content of a file of `torch.save`, with objects of known training loops replaced by `SteppedOver`."""
    names = dict.fromkeys(STEPPED_OVER, SteppedOver) | dict.fromkeys(READ_AS_DICTIONARY, OrderedDict)
    replaced: list[Any] = [(replacement, name) for name, replacement in names.items()]
    try:
        with torch.serialization.safe_globals(replaced):
            return torch.load(path, map_location="cpu", mmap=zipfile.is_zipfile(path), weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        if name:
            raise SetrError(
                f"{path} is refused: unpickling it would import {name.group(1)}, which has no place in a file "
                "of weights. Nothing was run. If you trust its origin, save the state dict alone and convert that"
            ) from None
        reason = re.search(r"WeightsUnpickler error: (.*)", str(error))
        raise SetrError(f"{path} is not a file of weights: {reason.group(1) if reason else error}") from None
    except Exception as error:  # What torch raises on damaged bytes depends on where they are damaged.
        raise SetrError(f"{path} is not a checkpoint, or it is damaged or truncated: {error}") from None


def load_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:
        raise SetrError(f"{path} cannot be read as safetensors; it is damaged or truncated: {error}") from None


def read_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The weights of a checkpoint, without a `module.` prefix, and its `meta` dictionary, empty if there is none.

    Reads files of `torch.save` (in the zip and the older format; a bare state dict, or one under "state_dict" or
    "model") and safetensors. Zip files are mapped into memory, so tensors that are not used, such as an optimizer's,
    cost none. Unpickling is torch's weights-only one; objects of mmengine's training loop are not constructed. Raises
    [`SetrError`] if the file is missing, damaged or not a checkpoint, or its pickle would import anything else.
    """
    path = Path(path)
    check_looks_loadable(path)
    if path.suffix == ".safetensors":
        state_dict, meta = load_safetensors(path)
    else:
        content = load_torch_file(path)
        if not isinstance(content, dict):
            raise SetrError(f"{path} holds a {type(content).__name__}, not a state dict")
        nested = (content[key] for key in NESTED_STATE_DICTS if isinstance(content.get(key), dict))
        state_dict, meta = next(nested, content), content.get("meta")
    strangers = [key for key, value in state_dict.items() if not isinstance(value, torch.Tensor)]
    if strangers or not state_dict:
        raise SetrError(f"{path} does not hold a state dict: its entries {strangers[:10]} are not tensors")
    if all(key.startswith("module.") for key in state_dict):
        state_dict = {key.removeprefix("module."): value for key, value in state_dict.items()}
    return dict(state_dict), dict(meta) if isinstance(meta, dict) else {}
