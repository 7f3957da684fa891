"""Load trained models and their image processors; whatever is wrong with a folder is one sentence."""

from __future__ import annotations

import hashlib
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig

from .configuration_mlcak import MLCAKConfig
from .errors import MLCAKError, RecipeError
from .image_processing_mlcak import MLCAKImageProcessor
from .modeling_mlcak import MLCAKForCXRClassification

_REMEDY = "Name a folder that train_teacher.py or distil_student.py wrote, or a Hub id of such a model."
# What transformers, huggingface_hub and safetensors raise for a folder that is not what was asked for.
_CANNOT_BE_LOADED = (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError)
_REASON_CHARACTERS = 300


@contextmanager
def loading(
    source: str | PathLike[str], role: str = "model", remedy: str = _REMEDY, error: type[MLCAKError] = RecipeError
) -> Iterator[None]:
    """Say in one sentence why what is loaded inside cannot be loaded.

    Args:
        source: the folder or Hub id.
        role: what it was named as.
        remedy: what to name instead.
        error: what to raise.

    Raises:
        MLCAKError: of the class `error`, for whatever the libraries that load it raise; names source and remedy.
    """
    try:
        yield
    except MLCAKError:
        raise
    except _CANNOT_BE_LOADED as cause:
        # The first sentence says what is wrong; general advice follows it, often a page.
        reason = textwrap.shorten(re.split(r"\.\s", str(cause))[0], _REASON_CHARACTERS, placeholder=" ...").rstrip(".")
        if not Path(source).exists():
            on_hub = str(source).count("/") <= 1 and not Path(source).is_absolute()
            reason = (
                f"it is neither a folder nor was it found on the Hub ({reason})"
                if on_hub
                else "there is no such folder"
            )
        raise error(f"The {role} {str(source)!r} cannot be loaded: {reason}. {remedy}") from cause


def load_config(source: str | PathLike[str], role: str = "model", error: type[MLCAKError] = RecipeError) -> MLCAKConfig:
    """Load the config of an MLCAK model, without its weights.

    Args:
        source: a folder or a Hub id.
        role, error: as for `loading`.

    Returns:
        The config.

    Raises:
        MLCAKError: of the class `error`, if it cannot be loaded or is of no MLCAK model.
    """
    with loading(source, role, error=error):
        kind = AutoConfig.from_pretrained(source).model_type
        if kind != MLCAKConfig.model_type:
            raise ValueError(f"it is no MLCAK model: its model_type is {kind!r}, not {MLCAKConfig.model_type!r}")
        return MLCAKConfig.from_pretrained(source)


def load_model(
    source: str | PathLike[str], role: str = "model", error: type[MLCAKError] = RecipeError, **kwargs: Any
) -> MLCAKForCXRClassification:
    """Load an MLCAK model.

    Args:
        source: a folder or a Hub id.
        role, error: as for `loading`.
        kwargs: for `from_pretrained`.

    Returns:
        The model, in evaluation mode.

    Raises:
        MLCAKError: of the class `error`, if it cannot be loaded or is no MLCAK model.
    """
    load_config(source, role, error)
    with loading(source, role, error=error):
        model: MLCAKForCXRClassification = MLCAKForCXRClassification.from_pretrained(source, **kwargs)
    return model


def weight_files(source: str | PathLike[str]) -> list[Path]:
    """Files of weights in a local folder: none for a model size, or a Hub id."""
    return [path for kind in ("*.safetensors", "pytorch_model*.bin") for path in sorted(Path(source).glob(kind))]


def weights_digest(source: str | PathLike[str]) -> str | None:
    """Fingerprint of the weights in a local folder: SHA-256 of its files of weights; None without any."""
    files = weight_files(source)
    if not files:
        return None
    hashed = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                hashed.update(block)
    return hashed.hexdigest()


def load_processor(
    source: str | PathLike[str], config: MLCAKConfig, role: str = "model", error: type[MLCAKError] = RecipeError
) -> MLCAKImageProcessor:
    """Load the image processor that was saved with a model.

    Args:
        source: the model's folder or Hub id.
        config: the model's.
        role, error: as for `loading`.

    Returns:
        The processor: it makes what the model takes.

    Raises:
        MLCAKError: of the class `error`, if there is none, or it makes images of another size or number of channels.
    """
    remedy = "Copy preprocessor_config.json from where the model was trained."
    with loading(source, f"image processor of the {role}", remedy, error):
        if Path(source).is_dir() and not any(Path(source).glob("*processor_config.json")):
            raise FileNotFoundError("the folder has no preprocessor_config.json")
        processor: MLCAKImageProcessor = MLCAKImageProcessor.from_pretrained(source)
    made = (len(processor.image_mean), processor.size["height"], processor.size["width"])
    taken = (config.num_channels, config.image_size, config.image_size)
    if made != taken:
        raise error(
            f"The image processor of the {role} {str(source)!r} makes images of (channels, height, width) = {made}, "
            f"but its model takes {taken}: restore the preprocessor_config.json that was saved with the model."
        )
    return processor
