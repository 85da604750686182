"""A trained model with its image processor."""

import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, BaseImageProcessor, PreTrainedModel

from ..errors import SetrError


def load_model(
    path: str, dtype: str = "auto", device: str | torch.device = "cpu"
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """The model of a folder or Hub id, in evaluation mode, and its image processor. `dtype` is "float32", "bfloat16",
    "float16", or "auto": as saved. Raises [`SetrError`] if there is none of that name, or it is not a SETR.
    """
    try:
        model = AutoModelForSemanticSegmentation.from_pretrained(path, dtype=dtype)
        processor = AutoImageProcessor.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise SetrError(f"the model {path} cannot be loaded: {str(error).splitlines()[0]}") from error
    if model.config.model_type != "setr":
        raise SetrError(f"the model {path} is not a SETR, but of the type {model.config.model_type!r}")
    return model.to(device).eval(), processor
