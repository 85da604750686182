"""SETR, the segmentation transformer, for Transformers. Importing this registers it with the Auto classes."""

import importlib
from typing import TYPE_CHECKING, Any

from .model import (
    LossSettings,
    SetrBackbone,
    SetrConfig,
    SetrForSemanticSegmentation,
    SetrImageProcessor,
    SetrImageProcessorPil,
    SetrModel,
    SetrPreTrainedModel,
    semantic_loss,
)


if TYPE_CHECKING:
    from .checkpoints.convert import convert_checkpoint
    from .checkpoints.encoder import load_encoder
    from .data.loading import load_segmentation_data
    from .inference.large_pictures import segment_large_picture
    from .inference.sliding_windows import segment
    from .training.arguments import SetrTrainingArguments
    from .training.loss_function import loss_function
    from .training.memory import plan_memory
    from .training.trainer import SetrTrainer

__version__ = "0.1.0"

# Where the names beyond the model layer are; they load on first use, with what they import (OpenCV, datasets, …).
LATER = {
    "SetrTrainer": ".training.trainer",
    "SetrTrainingArguments": ".training.arguments",
    "convert_checkpoint": ".checkpoints.convert",
    "load_encoder": ".checkpoints.encoder",
    "load_segmentation_data": ".data.loading",
    "loss_function": ".training.loss_function",
    "plan_memory": ".training.memory",
    "segment": ".inference.sliding_windows",
    "segment_large_picture": ".inference.large_pictures",
}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(LATER[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER})


__all__ = ["LossSettings", "SetrBackbone", "SetrConfig", "SetrForSemanticSegmentation", "SetrImageProcessor"]
__all__ += ["SetrImageProcessorPil", "SetrModel", "SetrPreTrainedModel", "SetrTrainer", "SetrTrainingArguments"]
__all__ += ["__version__", "convert_checkpoint", "load_encoder", "load_segmentation_data", "loss_function"]
__all__ += ["plan_memory", "segment", "segment_large_picture", "semantic_loss"]
