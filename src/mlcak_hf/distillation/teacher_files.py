"""Find teachers of any kind: their configs, models and image processors."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..errors import DistillationError
from ..image_processing_mlcak import MLCAKImageProcessor
from ..pretrained import load_any_config, load_model, load_processor, loading
from ..weights import weight_files
from .compatibility import LabelNames
from .logit_teachers import LogitTeacherConfig, is_function, load_logit_teacher, logit_teacher_config


def load_teacher(teacher: Any, config: Any = None) -> Any:
    """Load a teacher, freeze it and set it to evaluation mode.

    Args:
        teacher:
            As for [`Teachers`]. A model is frozen in place.
        config (*optional*):
            Its config, if it is known.

    Raises:
        [`DistillationError`]: When it cannot be loaded.
    """
    config = teacher_config(teacher) if config is None else config
    if isinstance(config, LogitTeacherConfig):
        return load_logit_teacher(teacher, config)
    model: Any = load_model(teacher, "teacher", DistillationError) if isinstance(teacher, (str, PathLike)) else teacher
    model.requires_grad_(False)
    return model.train(False)


def teacher_config(teacher: Any) -> Any:
    """Return the config of a teacher, and check without loading them that the weights in its folder are complete.

    Args:
        teacher:
            As for [`Teachers`], or a config. The weights of a Hub id are not checked.

    Returns:
        [`MLCAKConfig`] or [`LogitTeacherConfig`]

    Raises:
        [`DistillationError`]: When it cannot be loaded or is not a classifier, or weights are missing or truncated.
    """
    if not isinstance(teacher, (str, PathLike)):
        config: Any = getattr(teacher, "config", teacher)
        # A model loaded from a folder with remote code belongs to another class of the same name, so ask for its type.
        if isinstance(config, LogitTeacherConfig) or getattr(config, "model_type", None) == "mlcak":
            return config
        described = logit_teacher_config(teacher)
        if described is None:
            raise DistillationError(
                f"The teacher must be a model or a function; got {type(teacher).__name__}. Name the folder of a model."
            )
        return described
    if is_function(teacher):
        return logit_teacher_config(teacher)
    config = load_any_config(teacher, "teacher", DistillationError)
    with loading(teacher, "teacher", "Copy its weights again, or train it again.", DistillationError):
        files = weight_files(teacher)
        if Path(teacher).is_dir() and not files:
            raise FileNotFoundError("it has no weights (model.safetensors)")
        for weights in (path for path in files if path.suffix == ".safetensors"):
            # Opening compares the length of the file with its header, and reads nothing else.
            with safe_open(weights, framework="pt"):
                pass
    return config if config.model_type == "mlcak" else logit_teacher_config(teacher)


def labels_of_teacher(config: Any) -> LabelNames:
    """Return the labels of a teacher by its config."""
    return config.names if isinstance(config, LogitTeacherConfig) else LabelNames.of(config)


def make_teacher_processor(teacher: Any, config: Any, student: MLCAKImageProcessor) -> MLCAKImageProcessor:
    """Return the image processor that makes a teacher's input.

    Args:
        teacher (`str` or `os.PathLike`):
            Folder, Hub id or function.
        config ([`MLCAKConfig`] or [`LogitTeacherConfig`]):
            Its config.
        student ([`MLCAKImageProcessor`]):
            Image processor of the student.

    Raises:
        [`DistillationError`]: When an MLCAK teacher's cannot be loaded or does not fit.
    """
    if isinstance(config, LogitTeacherConfig):
        return config.make_processor(student)
    return load_processor(teacher, config, "teacher", DistillationError)
