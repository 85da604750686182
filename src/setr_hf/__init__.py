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
    from .inference.pipeline import BandSegmentationPipeline
    from .inference.sliding_windows import segment
    from .model.bands_setr import read_bands
    from .training.adapters import add_lora
    from .training.arguments import SetrTrainingArguments
    from .training.loss_function import loss_function
    from .training.memory import plan_memory
    from .training.merging import merge_adapter
    from .training.trainer import SetrTrainer

__version__ = "0.1.0"

# Where the names beyond the model layer are; they load on first use, with what they import (OpenCV, datasets, …).
LATER = {
    "BandSegmentationPipeline": ".inference.pipeline",
    "SetrTrainer": ".training.trainer",
    "SetrTrainingArguments": ".training.arguments",
    "add_lora": ".training.adapters",
    "convert_checkpoint": ".checkpoints.convert",
    "load_encoder": ".checkpoints.encoder",
    "load_segmentation_data": ".data.loading",
    "loss_function": ".training.loss_function",
    "merge_adapter": ".training.merging",
    "plan_memory": ".training.memory",
    "read_bands": ".model.bands_setr",
    "segment": ".inference.sliding_windows",
    "segment_large_picture": ".inference.large_pictures",
}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(LATER[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER})


__all__ = ["BandSegmentationPipeline", "LossSettings", "SetrBackbone", "SetrConfig", "SetrForSemanticSegmentation"]
__all__ += ["SetrImageProcessor", "SetrImageProcessorPil", "SetrModel", "SetrPreTrainedModel", "SetrTrainer"]
__all__ += ["SetrTrainingArguments", "__version__", "add_lora", "convert_checkpoint", "load_encoder"]
__all__ += ["load_segmentation_data", "loss_function", "merge_adapter", "plan_memory", "read_bands", "segment"]
__all__ += ["segment_large_picture", "semantic_loss"]
