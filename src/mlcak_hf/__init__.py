"""Low-resolution chest X-ray classification by multilevel collaborative attention knowledge (MLCAK).

Importing the package is cheap: public names are imported when they are first used (PEP 562), and the Auto classes know
the model as soon as transformers is imported, before or after this package.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_mlcak import VINDR_CXR_FINDINGS as VINDR_CXR_FINDINGS
    from .configuration_mlcak import MLCAKConfig as MLCAKConfig
    from .errors import MLCAKError as MLCAKError
    from .image_processing_mlcak import MLCAKImageProcessor as MLCAKImageProcessor
    from .modeling_mlcak import MLCAKForCXRClassification as MLCAKForCXRClassification
    from .modeling_mlcak import MLCAKOutput as MLCAKOutput
    from .prediction.batches import BatchPredictor as BatchPredictor
    from .prediction.onnx_predictor import OnnxPredictor as OnnxPredictor
    from .prediction.predictor import RadiographPredictor as RadiographPredictor
    from .prediction.reading import Prediction as Prediction
    from .radiographs.file_search import find_radiographs as find_radiographs
    from .radiographs.read import read_radiograph as read_radiograph
    from .training.arguments import MLCAKTrainingArguments as MLCAKTrainingArguments
    from .training.trainer import MLCAKTrainer as MLCAKTrainer
    from .vindr_cxr.builder import load_vindr_cxr as load_vindr_cxr
    from .vindr_cxr.options import VinDrOptions as VinDrOptions
    from .vindr_cxr.vindr_source import prepare_vindr_cxr as prepare_vindr_cxr

__version__ = "0.1.0"

_MODULES = {
    "BatchPredictor": "prediction.batches",
    "VINDR_CXR_FINDINGS": "configuration_mlcak",
    "MLCAKConfig": "configuration_mlcak",
    "MLCAKError": "errors",
    "MLCAKForCXRClassification": "modeling_mlcak",
    "MLCAKImageProcessor": "image_processing_mlcak",
    "MLCAKOutput": "modeling_mlcak",
    "MLCAKTrainer": "training.trainer",
    "MLCAKTrainingArguments": "training.arguments",
    "OnnxPredictor": "prediction.onnx_predictor",
    "Prediction": "prediction.reading",
    "RadiographPredictor": "prediction.predictor",
    "VinDrOptions": "vindr_cxr.options",
    "find_radiographs": "radiographs.file_search",
    "load_vindr_cxr": "vindr_cxr.builder",
    "prepare_vindr_cxr": "vindr_cxr.vindr_source",
    "read_radiograph": "radiographs.read",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register() -> None:
    """Register the model with transformers, and mark its files as the code to save with it."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

    from .configuration_mlcak import MLCAKConfig
    from .image_processing_mlcak import MLCAKImageProcessor
    from .modeling_mlcak import MLCAKForCXRClassification, MLCAKModel

    AutoConfig.register(MLCAKConfig.model_type, MLCAKConfig)
    AutoModel.register(MLCAKConfig, MLCAKModel)
    AutoModelForImageClassification.register(MLCAKConfig, MLCAKForCXRClassification)
    AutoImageProcessor.register(MLCAKConfig, image_processor_classes={"pil": MLCAKImageProcessor})
    # `pipeline` also looks for a video processor. Without an entry (None: there is none) it would take the saved image
    # processor code for one and ask at the terminal whether to run it.
    VIDEO_PROCESSOR_MAPPING.register(MLCAKConfig, {"torchvision": None})  # type: ignore[arg-type]
    # A saved model carries its code, so that `trust_remote_code=True` loads it where this package is not installed.
    MLCAKConfig.register_for_auto_class()  # type: ignore[no-untyped-call]
    MLCAKModel.register_for_auto_class("AutoModel")  # type: ignore[no-untyped-call]
    MLCAKForCXRClassification.register_for_auto_class("AutoModelForImageClassification")  # type: ignore[no-untyped-call]
    MLCAKImageProcessor.register_for_auto_class("AutoImageProcessor")  # type: ignore[no-untyped-call]


class _RegisterOnImport:
    """A finder for `sys.meta_path` that registers the model once transformers is imported.

    Where one of the Hub files is the first to import transformers, registering must wait for that file to finish. So
    both are watched, and the outermost import registers.
    """

    def __init__(self) -> None:
        self._depth = 0

    def find_spec(self, fullname: str, *args: Any) -> ModuleSpec | None:
        if fullname != "transformers" and not (fullname.startswith(f"{__name__}.") and fullname.endswith("_mlcak")):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(fullname, *args) for finder in others if hasattr(finder, "find_spec"))
        spec = next(filter(None, specs), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                self._depth += 1
                try:
                    execute(module)
                finally:
                    self._depth -= 1
                if not self._depth and "transformers" in sys.modules and self in sys.meta_path:
                    sys.meta_path.remove(self)
                    _register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if "transformers" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _RegisterOnImport())
