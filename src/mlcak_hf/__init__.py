"""Low-resolution chest X-ray classification by multilevel collaborative attention knowledge (MLCAK)."""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from mlcak_hf.configuration_mlcak import VINDR_CXR_FINDINGS, MLCAKConfig
from mlcak_hf.image_processing_mlcak import MLCAKImageProcessor
from mlcak_hf.modeling_mlcak import MLCAKForCXRClassification, MLCAKOutput

__version__ = "0.1.0"

__all__ = [
    "VINDR_CXR_FINDINGS",
    "MLCAKConfig",
    "MLCAKForCXRClassification",
    "MLCAKImageProcessor",
    "MLCAKOutput",
]

# With the package installed, the Auto classes and `pipeline` know the model by its name ...
AutoConfig.register(MLCAKConfig.model_type, MLCAKConfig)
AutoModelForImageClassification.register(MLCAKConfig, MLCAKForCXRClassification)
AutoImageProcessor.register(MLCAKConfig, image_processor_classes={"pil": MLCAKImageProcessor})
# ... and a saved model carries its code, so that `trust_remote_code=True` loads it where the package is absent.
MLCAKConfig.register_for_auto_class()
MLCAKForCXRClassification.register_for_auto_class("AutoModelForImageClassification")
MLCAKImageProcessor.register_for_auto_class("AutoImageProcessor")
