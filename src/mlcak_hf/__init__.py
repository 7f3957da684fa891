"""Low-resolution chest X-ray classification by multilevel collaborative attention knowledge (MLCAK)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

from mlcak_hf.configuration_mlcak import VINDR_CXR_FINDINGS, MLCAKConfig
from mlcak_hf.image_processing_mlcak import MLCAKImageProcessor
from mlcak_hf.modeling_mlcak import MLCAKForCXRClassification, MLCAKOutput

if TYPE_CHECKING:
    from mlcak_hf.prediction.predictor import RadiographPredictor
    from mlcak_hf.radiographs.reader import read_radiograph
    from mlcak_hf.training.arguments import MLCAKTrainingArguments
    from mlcak_hf.training.trainer import MLCAKTrainer
    from mlcak_hf.vindr_cxr.builder import load_vindr_cxr

__version__ = "0.1.0"

__all__ = [
    "VINDR_CXR_FINDINGS",
    "MLCAKConfig",
    "MLCAKForCXRClassification",
    "MLCAKImageProcessor",
    "MLCAKOutput",
    "MLCAKTrainer",
    "MLCAKTrainingArguments",
    "RadiographPredictor",
    "load_vindr_cxr",
    "read_radiograph",
]

# Imported when first asked for: they bring datasets, accelerate and pydicom, which a loaded model does without.
_LAZY = {
    "MLCAKTrainer": "training.trainer",
    "MLCAKTrainingArguments": "training.arguments",
    "RadiographPredictor": "prediction.predictor",
    "load_vindr_cxr": "vindr_cxr.builder",
    "read_radiograph": "radiographs.reader",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


# With the package installed, the Auto classes and `pipeline` know the model by its name ...
AutoConfig.register(MLCAKConfig.model_type, MLCAKConfig)
AutoModelForImageClassification.register(MLCAKConfig, MLCAKForCXRClassification)
AutoImageProcessor.register(MLCAKConfig, image_processor_classes={"pil": MLCAKImageProcessor})
# `pipeline` also looks for a video processor. Without an entry (None: there is none) it would take this model's saved
# image processor code for one and ask at the terminal whether to run it.
VIDEO_PROCESSOR_MAPPING.register(MLCAKConfig, {"torchvision": None})  # type: ignore[arg-type]
# ... and a saved model carries its code, so that `trust_remote_code=True` loads it where the package is absent.
MLCAKConfig.register_for_auto_class()  # type: ignore[no-untyped-call]
MLCAKForCXRClassification.register_for_auto_class("AutoModelForImageClassification")  # type: ignore[no-untyped-call]
MLCAKImageProcessor.register_for_auto_class("AutoImageProcessor")  # type: ignore[no-untyped-call]
