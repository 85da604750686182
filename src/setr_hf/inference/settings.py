"""What results depend on, so that those of different models or settings are never mixed."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from transformers import BaseImageProcessor, PreTrainedModel

from ..errors import SetrError
from .loading import read_object
from .quantization import stored_tensors


# Fields of configurations and image processors that change nothing of a label map.
WITHOUT_EFFECT = {"_name_or_path", "transformers_version", "dtype", "id2label", "label2id", "palette", "auto_map"}
WITHOUT_EFFECT |= {"temperature"}


def digest(content: dict | list, *tensors: np.ndarray) -> str:
    """16 hex digits, different for different contents."""
    total = hashlib.sha256()
    for part in (json.dumps(content, sort_keys=True, default=str).encode(), *(t.tobytes() for t in tensors)):
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()[:16]


def model_settings(model: PreTrainedModel, processor: BaseImageProcessor) -> dict[str, str]:
    """Digests of all that a label map depends on in a model and its image processor."""
    config, processing = (
        {name: value for name, value in part.to_dict().items() if name not in WITHOUT_EFFECT}
        for part in (model.config, processor)
    )
    stored = sorted(stored_tensors(model), key=lambda item: item[0])
    tensors = (tensor.cpu().contiguous() for _, tensor in stored)
    return {
        "model": digest(config, *(tensor.view(-1).view(torch.uint8).numpy() for tensor in tensors)),
        "image_processor": digest(processing),
    }


def check_settings(path: Path, settings: dict, has_results: bool) -> None:
    """Raises a [`SetrError`] if the settings in the file `path` are others than these or damaged, or if there is none
    although its folder `has_results`.
    """
    if not path.exists():
        if has_results:
            raise SetrError(f"{path.parent} holds results without {path.name}: choose another output folder")
        return
    try:
        earlier = read_object(path)
    except SetrError as error:
        raise SetrError(f"{error}. Delete {path.parent} to compute its results again") from error
    different = [key for key in {**earlier, **settings} if earlier.get(key) != settings.get(key)]
    if different:
        changes = "; ".join(f"{key} was {earlier.get(key)}, now {settings.get(key)}" for key in different)
        raise SetrError(
            f"{path.parent} holds results computed with other settings ({changes}). Use the same settings to resume, "
            "or choose another output folder"
        )
