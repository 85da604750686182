"""A trained model with its image processor."""

import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, BaseImageProcessor, PreTrainedModel

from ..errors import SetrError


def load_model(
    path: str, dtype: str = "auto", device: str | torch.device = "cpu"
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """
    A model in evaluation mode, and its image processor.

    Args:
        path (`str`): A folder, or an id on the Hub.
        dtype (`str`, *optional*, defaults to `"auto"`): `"float32"`, `"bfloat16"` or `"float16"`; by default as saved.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where the model runs.

    Raises:
        [`SetrError`]: There is no model of that name, or it is not a SETR.
    """
    try:
        model = AutoModelForSemanticSegmentation.from_pretrained(path, dtype=dtype)
        processor = AutoImageProcessor.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise SetrError(f"the model {path} cannot be loaded: {str(error).splitlines()[0]}") from error
    if model.config.model_type != "setr":
        raise SetrError(f"the model {path} is not a SETR, but of the type {model.config.model_type!r}")
    return model.to(device).eval(), processor
