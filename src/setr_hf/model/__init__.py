"""The networks, their losses and the image processors; importing this registers them with the Auto classes.

The files beside this one travel with every saved model, so that `trust_remote_code=True` loads it where this package
is not installed.
"""

from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation

from .combined_losses_setr import semantic_loss
from .configuration_setr import SetrConfig
from .image_processing_setr import SetrImageProcessor, SetrImageProcessorPil
from .loss_settings_setr import LossSettings
from .modeling_setr import SetrBackbone, SetrForSemanticSegmentation, SetrModel, SetrPreTrainedModel


AutoConfig.register("setr", SetrConfig)
AutoModel.register(SetrConfig, SetrModel)
AutoBackbone.register(SetrConfig, SetrBackbone)
AutoModelForSemanticSegmentation.register(SetrConfig, SetrForSemanticSegmentation)
processors = {"torchvision": SetrImageProcessor, "pil": SetrImageProcessorPil}
AutoImageProcessor.register(SetrConfig, image_processor_classes=processors)

# Without these, a model that was loaded with its code and saved again would name the code and not hold it.
SetrConfig.register_for_auto_class()
SetrModel.register_for_auto_class("AutoModel")
SetrBackbone.register_for_auto_class("AutoBackbone")
SetrForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
SetrImageProcessor.register_for_auto_class()
SetrImageProcessorPil.register_for_auto_class()

__all__ = ["SetrBackbone", "SetrConfig", "SetrForSemanticSegmentation", "SetrImageProcessor", "SetrImageProcessorPil"]
__all__ += ["LossSettings", "SetrModel", "SetrPreTrainedModel", "semantic_loss"]
