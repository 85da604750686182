"""SETR, the segmentation transformer, for Transformers. Importing this registers it with the Auto classes."""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSemanticSegmentation,
)

from .model.configuration_setr import SetrConfig
from .model.image_processing_setr import SetrImageProcessor, SetrImageProcessorPil
from .model.modeling_setr import SetrBackbone, SetrForSemanticSegmentation, SetrModel, SetrPreTrainedModel


__version__ = "0.1.0"

AutoConfig.register("setr", SetrConfig)
AutoModel.register(SetrConfig, SetrModel)
AutoBackbone.register(SetrConfig, SetrBackbone)
AutoModelForSemanticSegmentation.register(SetrConfig, SetrForSemanticSegmentation)
AutoImageProcessor.register(
    SetrConfig, image_processor_classes={"torchvision": SetrImageProcessor, "pil": SetrImageProcessorPil}
)

# Saved models carry their code, so that `trust_remote_code=True` loads them where this package is not installed.
SetrConfig.register_for_auto_class()
SetrModel.register_for_auto_class("AutoModel")
SetrBackbone.register_for_auto_class("AutoBackbone")
SetrForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
SetrImageProcessor.register_for_auto_class()
SetrImageProcessorPil.register_for_auto_class()

__all__ = [
    "SetrBackbone",
    "SetrConfig",
    "SetrForSemanticSegmentation",
    "SetrImageProcessor",
    "SetrImageProcessorPil",
    "SetrModel",
    "SetrPreTrainedModel",
    "__version__",
]
