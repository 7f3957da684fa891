"""Teachers that are not MLCAK models: any image classifier of transformers, or a function. They teach logits."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoModelForImageClassification, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..errors import DistillationError
from ..image_processing_mlcak import MLCAKImageProcessor
from ..pretrained import Source, load_any_config, loading
from ..probabilities import MULTI_LABEL
from .compatibility import LabelNames

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class LogitTeacherConfig:
    """What is known of a logit teacher before it is loaded.

    Args:
        name (`str`):
            What messages call it: its class, or the name of the function. Never a path.
        labels (`list[str]`):
            Names of its logits, in their order.
        problem_type (`str`):
            As in [`LabelNames`].
        processor (`dict[str, Any]`):
            Settings of the [`MLCAKImageProcessor`] that makes its input.
        details (`dict[str, Any]`):
            What else decides its outputs, besides the weights.
    """

    name: str
    labels: list[str]
    problem_type: str
    processor: dict[str, Any]
    details: dict[str, Any]

    #: Only MLCAK models teach attention.
    has_attention = False

    @property
    def names(self) -> LabelNames:
        """The labels."""
        return LabelNames(tuple(self.labels), (), self.problem_type)

    def make_processor(self, student: MLCAKImageProcessor) -> MLCAKImageProcessor:
        """Return the image processor of the teacher.

        The radiograph becomes a square as for the student (`fit`), is reduced whole to the teacher's size without a
        crop, and is repeated where the teacher takes three channels.

        Args:
            student ([`MLCAKImageProcessor`]):
                Image processor of the student.
        """
        shared = {name: getattr(student, name) for name in ("fit", "voi", "value_range")}
        return MLCAKImageProcessor(**self.processor | shared)

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return the content as JSON, like the configs of transformers."""
        return json.dumps(asdict(self), sort_keys=True)


def is_function(teacher: Any) -> bool:
    """Return whether a teacher is named as `package.module:function`."""
    return isinstance(teacher, str) and bool(_FUNCTION.fullmatch(teacher)) and not Path(teacher).exists()


def logit_teacher_config(teacher: Any) -> LogitTeacherConfig | None:
    """Describe a teacher that is not an MLCAK model.

    Args:
        teacher (a model, a function, `str` or `os.PathLike`):
            An image classifier of transformers, its folder or Hub id; or a function that takes pixel values `(B, C, S,
            S)` and returns logits `(B, n)`, or its name `package.module:function`. A function has the attribute
            `labels`, the names of its n logits, and optionally `image_size` (S, default 224), `num_channels` (1 or 3,
            default 1) and `problem_type` (default `"multi_label_classification"`). Its pixels are grey values from
            0 (black) to 1.

    Returns:
        [`LogitTeacherConfig`]: `None` when it is neither.

    Raises:
        [`DistillationError`]: When it cannot be loaded, or its labels or its input are not known.
    """
    if is_function(teacher):
        return _describe_function(_import(teacher), teacher)
    if isinstance(teacher, PreTrainedModel):
        # Its collator has been made by the caller, with the right processor.
        return _describe_classifier(teacher.config, {}, type(teacher).__name__)
    if isinstance(teacher, (str, PathLike)):
        config = load_any_config(teacher, "teacher", DistillationError)
        if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            raise DistillationError(
                f"The teacher {str(teacher)!r} must be an image classifier; got model_type {config.model_type!r}. Name "
                "a model that AutoModelForImageClassification loads."
            )
        model_class: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
        # A tuple where a family has several classes.
        name = (model_class[0] if isinstance(model_class, tuple) else model_class).__name__
        return _describe_classifier(config, _read_processor(teacher, config), name)
    return (
        _describe_function(teacher, getattr(teacher, "__name__", type(teacher).__name__)) if callable(teacher) else None
    )


def load_logit_teacher(teacher: Any, config: LogitTeacherConfig) -> nn.Module:
    """Load a logit teacher, freeze it and set it to evaluation mode.

    Args:
        teacher:
            As for [`logit_teacher_config`].
        config ([`LogitTeacherConfig`]):
            Its description.

    Returns:
        `torch.nn.Module`: It takes pixel values `(B, C, S, S)` and returns logits `(B, n)`.

    Raises:
        [`DistillationError`]: When it cannot be loaded.
    """
    if is_function(teacher):
        model = _import(teacher)
    elif isinstance(teacher, (str, PathLike)):
        remedy = "Name the folder or Hub id of a trained image classifier."
        with loading(teacher, "teacher", remedy, DistillationError):
            options = {"use_safetensors": True, "output_loading_info": True}
            model, report = AutoModelForImageClassification.from_pretrained(teacher, **options)
            if report["missing_keys"]:
                raise ValueError(f"its weights lack {sorted(report['missing_keys'])[:3]}")
    else:
        model = teacher
    wrapped = _Logits(model, config)
    wrapped.requires_grad_(False)
    return wrapped.train(False)


class _Logits(nn.Module):
    """Call a classifier or function, and check the shape of what it returns."""

    def __init__(self, model: Any, config: LogitTeacherConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, pixel_values: Tensor) -> Tensor:
        shape = tuple(pixel_values.shape)
        try:
            output = self.model(pixel_values)
        except (TypeError, ValueError) as error:
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            raise DistillationError(
                f"The teacher {self.config.name} must take pixel values of shape {shape}; it failed: {reason}. Correct "
                "it, or its image size or number of channels."
            ) from error
        logits = getattr(output, "logits", output)
        expected = (shape[0], len(self.config.labels))
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise DistillationError(
                f"The teacher {self.config.name} must return logits of shape {expected}, one per image and label; got "
                f"{found}. Correct it, or its labels."
            )
        return logits


def _import(name: str) -> Any:
    module, _, function = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # Under `accelerate launch` only the script's own folder is there.
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise DistillationError(
            f"The teacher {name} must be a function that can be imported; got: {error}. Name it "
            "package.module:function, and start in the folder that contains the package, or install it."
        ) from error
    if not callable(found):
        raise DistillationError(
            f"The teacher {name} must be a function; got a {type(found).__name__}. Name a function."
        )
    return found


def _describe_function(function: Any, name: str) -> LogitTeacherConfig:
    labels = getattr(function, "labels", None)
    if isinstance(labels, str) or not labels:
        raise DistillationError(
            f"The teacher {name} must have the attribute `labels`, the names of its logits; got {labels!r}. Set "
            f'{name.partition(":")[2] or name}.labels = ["Normal", "Abnormal"], for example.'
        )
    side, channels = getattr(function, "image_size", 224), getattr(function, "num_channels", 1)
    processor = {
        "size": {"height": int(side), "width": int(side)},
        "image_mean": [0.0] * int(channels),
        "image_std": [1.0] * int(channels),
    }
    try:
        code = inspect.getsourcefile(inspect.unwrap(function) if inspect.isroutine(function) else type(function))
    except TypeError:
        code = None
    digest = hashlib.sha256(Path(code).read_bytes()).hexdigest() if code and Path(code).is_file() else None
    problem_type = str(getattr(function, "problem_type", MULTI_LABEL))
    return LogitTeacherConfig(name, [str(label) for label in labels], problem_type, processor, {"code": digest})


def _describe_classifier(config: Any, processor: dict[str, Any], name: str) -> LogitTeacherConfig:
    labels = [str(label) for _, label in sorted((int(key), label) for key, label in config.id2label.items())]
    if config.problem_type == "regression":
        raise DistillationError(
            f"The teacher {name} must be a classifier; got problem_type 'regression'. Name another."
        )
    # As transformers' pipelines read them: one logit is a log-odds.
    several = config.problem_type == MULTI_LABEL or len(labels) == 1
    kind = MULTI_LABEL if several else "single_label_classification"
    return LogitTeacherConfig(name, labels, kind, processor, json.loads(config.to_json_string(use_diff=False)))


def _read_processor(source: Source, config: Any) -> dict[str, Any]:
    """Read how a classifier's input is made of a grey image, as settings of an [`MLCAKImageProcessor`]."""
    remedy = "Save the image processor that it was trained with beside it."
    with loading(source, "image processor of the teacher", remedy, DistillationError):
        stored, _ = BaseImageProcessor.get_image_processor_dict(source)
        channels = int(getattr(config, "num_channels", None) or 3)
        if stored.get("image_processor_type") == MLCAKImageProcessor.__name__:
            own = MLCAKImageProcessor.from_pretrained(source).to_dict()
            settings = {name: own[name] for name in ("size", "lowres", "image_mean", "image_std", "do_normalize")}
        else:
            settings = _translated(stored, channels)
        if len(settings["image_mean"]) != channels:
            raise ValueError(f"it must have {channels} mean(s), one per channel; got {list(settings['image_mean'])}")
    return settings


def _translated(stored: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Translate the settings of an image processor of transformers."""
    size = (stored.get("crop_size") if stored.get("do_center_crop") else None) or stored.get("size")
    sides = {size} if isinstance(size, int) else {int(side) for side in (size or {}).values()}
    if len(sides) != 1:
        raise ValueError(f"its size must be one square; got {size}")
    if stored.get("rescale_offset"):
        raise ValueError("its rescale_offset must be false; got true")
    mean, std = stored.get("image_mean"), stored.get("image_std")
    if stored.get("do_normalize") is False:
        mean, std = [0.0] * channels, [1.0] * channels
    if mean is None or std is None:
        raise ValueError("it has no image_mean and image_std")
    # EfficientNet's processor divides twice by the deviation.
    std = np.square(std) if stored.get("include_top") else np.array(std)
    # Some were fed with other units than 8-bit pixels / 255.
    unit = 255 * (stored.get("rescale_factor") or 1 / 255) if stored.get("do_rescale") is not False else 255
    return {
        "size": dict.fromkeys(("height", "width"), sides.pop()),
        "image_mean": (np.array(mean) / unit).tolist(),
        "image_std": (std / unit).tolist(),
    }
