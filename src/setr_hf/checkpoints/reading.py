"""Reads weights from files of any origin without running anything that is in them."""

import math
import mmap
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..errors import SetrError
from ..files import check_is_file
from ..text import one_line


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
    check_is_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise SetrError(f"{path} cannot be read: {error.strerror}") from error
    if not start:
        raise SetrError(f"{path} is empty: the download failed")
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise SetrError(f"{path} is a web page (HTML or XML), not a checkpoint: download the file itself")
    if start.startswith(b"version https://git-lfs"):
        raise SetrError(f"{path} is a Git LFS pointer, not a checkpoint: fetch the file with `git lfs pull`")
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise SetrError(f"{path} is truncated: the end of the archive is missing. Download it again")


def check_size(archive: zipfile.ZipFile, path: Path, most_bytes: int) -> None:
    """Raises a [`SetrError`] if the entries of a zip file would unpack to more than `most_bytes`: a bomb."""
    declared = sum(entry.file_size for entry in archive.infolist())
    if declared > most_bytes:
        raise SetrError(f"{path} is refused: of {path.stat().st_size:,} bytes, it would unpack to {declared:,}")


def check_torch_archive(path: Path) -> None:
    """Raises a [`SetrError`] if a zip file was not written by `torch.save`, or is not as it was written: torch itself
    compares no checksums, and would read wrong numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_size(archive, path, path.stat().st_size)
            compressed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
            damaged = None if compressed else archive.testzip()
    except SetrError:
        raise
    except Exception as error:  # What zipfile raises on damaged bytes depends on where they are damaged.
        raise SetrError(f"{path} is not a checkpoint, or it is damaged: {error}") from None
    if compressed:
        raise SetrError(f"{path} is refused: its entry {compressed[0]} is compressed, which torch.save never does")
    if damaged:
        raise SetrError(f"{path} is damaged: the checksum of its entry {damaged} is wrong. Download it again")


def check_bytearrays(path: Path) -> None:
    """Raises a [`SetrError`] for a pickle that makes a `bytearray`, which torch allows, of any size."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"\nbytearray\n") >= 0:
            raise SetrError(f"{path} is refused: its pickle reserves memory, which has no place in a file of weights")


def load_torch_file(path: Path) -> Any:
    """The content of a file of `torch.save`, with objects of known training loops replaced by `SteppedOver`."""
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        check_torch_archive(path)
    check_bytearrays(path)
    names = dict.fromkeys(STEPPED_OVER, SteppedOver) | dict.fromkeys(READ_AS_DICTIONARY, OrderedDict)
    replaced: list[Any] = [(replacement, name) for name, replacement in names.items()]
    try:
        with torch.serialization.safe_globals(replaced):
            return torch.load(path, map_location="cpu", mmap=is_zip, weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        if name:
            raise SetrError(
                f"{path} is refused: unpickling it would import {name.group(1)}, which has no place in a file "
                "of weights. Nothing was run. If you trust its origin, save the state dict alone and convert that"
            ) from None
        reason = re.search(r"WeightsUnpickler error: (.+)", str(error))
        told = reason.group(1) if reason else "it is in none of the forms that torch.save writes"
        raise SetrError(f"{path} is not a file of weights: {told}") from None
    except Exception as error:  # What torch raises on damaged bytes depends on where they are damaged.
        told = str(error) or type(error).__name__
        raise SetrError(f"{path} is not a checkpoint, or it is damaged or truncated: {told}") from None


def check_form(state_dict: dict, path: Path) -> None:
    """Raises a [`SetrError`] if this is not a state dict: names and plain tensors that the file holds in full."""
    for key, value in state_dict.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            entry = f"the entry {one_line(repr(key), 200)}, a {type(value).__name__}"
            raise SetrError(f"{path} does not hold a state dict: {entry}, is not a named tensor")
    if not state_dict:
        raise SetrError(f"{path} does not hold a state dict: it is empty")
    for key, value in state_dict.items():
        if value.layout != torch.strided or value.is_nested or value.is_quantized or value.device.type != "cpu":
            kind = "quantized" if value.is_quantized else str(value.layout).removeprefix("torch.").replace("_", " ")
            kind = value.device.type if value.device.type != "cpu" else kind
            raise SetrError(f"{path} holds the {kind} tensor {key}: save the state dict of plain tensors on the CPU")
    declared, size = sum(value.numel() * value.element_size() for value in state_dict.values()), path.stat().st_size
    if declared > 2 * size:  # Twice, as tensors may share their numbers.
        raise SetrError(f"{path} is damaged: its tensors would have {declared:,} bytes, and the file has {size:,}")


def check_weights(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises a [`SetrError`] that names the first of these tensors which cannot be weights in single precision: it is
    empty, not of floating point, or has NaN or infinite values, or negative variances. Counts of batches are whole.
    """
    for key, tensor in tensors.items():
        is_count = key.endswith("num_batches_tracked")
        kind = str(tensor.dtype).removeprefix("torch.")
        if is_count and (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool):
            raise SetrError(f"the count {key} is of the type {kind}, not a whole number")
        if is_count:
            continue
        if not tensor.is_floating_point():
            raise SetrError(f"the tensor {key} is of the type {kind}: weights are floating-point numbers")
        if tensor.numel() == 0:
            raise SetrError(f"the tensor {key} is empty: it has the shape {tuple(tensor.shape)}")
        low, high = (bound.item() for bound in tensor.detach().float().aminmax())
        if not math.isfinite(low) or not math.isfinite(high):
            raise SetrError(f"the tensor {key} has NaN or infinite values: its training diverged, or it is damaged")
        if key.endswith("running_var") and low < 0:
            raise SetrError(f"the tensor {key} has negative values, which no variance has")


def load_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:
        raise SetrError(f"{path} cannot be read as safetensors; it is damaged or truncated: {error}") from None


def read_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The weights of a checkpoint, without a `module.` prefix, and its `meta` dictionary, empty if there is none.

    Reads files of `torch.save` (in the zip and the older format; a bare state dict, or one under "state_dict" or
    "model") and safetensors. Zip files are read once to compare their checksums, and then mapped into memory, so that
    tensors which are not used, such as an optimizer's, cost none. Unpickling is torch's weights-only one; objects of
    mmengine's training loop are not constructed. Raises [`SetrError`] if the file is missing, damaged or not a
    checkpoint, or its pickle would import anything else.
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
    check_form(state_dict, path)
    if all(key.startswith("module.") for key in state_dict):
        state_dict = {key.removeprefix("module."): value for key, value in state_dict.items()}
    return dict(state_dict), dict(meta) if isinstance(meta, dict) else {}
