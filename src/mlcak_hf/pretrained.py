"""Load trained models and their image processors, with one-sentence errors."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig

from .configuration_mlcak import MLCAKConfig
from .errors import MLCAKError, RecipeError
from .image_processing_mlcak import MLCAKImageProcessor
from .modeling_mlcak import MLCAKForCXRClassification
from .shipped import checkpoint_names, close_name, resolve_checkpoint
from .weights import weight_files

#: A folder, a Hub id, or the name of a checkpoint that ships with the package.
Source = str | PathLike[str]

_REMEDY = "Name a folder that train_teacher.py or distil_student.py wrote, or the Hub id of such a model."
# What transformers, huggingface_hub and safetensors raise for a folder without what was asked for.
_LOADING_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError)


@contextmanager
def loading(
    source: Source, role: str = "model", remedy: str = _REMEDY, error: type[MLCAKError] = RecipeError
) -> Iterator[None]:
    """Turn the errors of other libraries inside the block into one sentence.

    Args:
        source (`str` or `os.PathLike`):
            The folder or Hub id that is loaded.
        role (`str`, *optional*, defaults to `"model"`):
            What it is loaded as, e.g. `"teacher"`.
        remedy (`str`, *optional*):
            What to do instead.
        error (`type`, *optional*, defaults to [`RecipeError`]):
            Class of the error to raise.

    Raises:
        [`MLCAKError`]: Of the class `error`. It names the source and the remedy.
    """
    try:
        yield
    except _LOADING_ERRORS as cause:
        # The first sentence says what is wrong; often a page of general advice follows.
        reason = textwrap.shorten(re.split(r"\.\s", str(cause))[0], 300, placeholder=" ...").rstrip(".")
        files = weight_files(source)
        if files and all(file.suffix == ".bin" for file in files):
            reason = f"{files[0].name} is a pickle, which can run any program when it is loaded"
            remedy = "Load it where you trust it, and save it with `save_pretrained`, which writes safetensors."
        if not Path(source).exists():
            may_be_on_hub = str(source).count("/") <= 1 and not Path(source).is_absolute()
            reason = f"it is neither a folder nor on the Hub ({reason})" if may_be_on_hub else "there is no such folder"
            if "/" not in str(source) and (known := checkpoint_names()):
                remedy = f"Checkpoints in this package: {', '.join(known)}.{close_name(str(source), known)} {remedy}"
        raise error(f"The {role} {str(source)!r} cannot be loaded: {reason}. {remedy}") from cause


def load_any_config(
    source: Source, role: str = "model", error: type[MLCAKError] = RecipeError, **kwargs: Any
) -> PreTrainedConfig:
    """Load the config of any model of transformers; the arguments are those of [`load_config`]."""
    source = resolve_checkpoint(str(source))
    with loading(source, role, error=error):
        if Path(source).is_dir() and not Path(source, "config.json").is_file():
            raise FileNotFoundError("the folder has no config.json")
        config: PreTrainedConfig = AutoConfig.from_pretrained(source, **kwargs)
    return config


def load_config(
    source: Source, role: str = "model", error: type[MLCAKError] = RecipeError, **kwargs: Any
) -> MLCAKConfig:
    """Load the config of an MLCAK model, without its weights.

    Args:
        source (`str` or `os.PathLike`):
            A folder or a Hub id.
        role, error:
            As in [`loading`].
        kwargs:
            Passed to `from_pretrained`, e.g. `revision`.

    Raises:
        [`MLCAKError`]: Of the class `error`, when it cannot be loaded or is not an MLCAK config.
    """
    config = load_any_config(source, role, error, **kwargs)
    with loading(source, role, error=error):
        if not isinstance(config, MLCAKConfig):
            raise ValueError(f"its model_type must be {MLCAKConfig.model_type!r}; got {config.model_type!r}")
    return config


def load_model(
    source: Source, role: str = "model", error: type[MLCAKError] = RecipeError, **kwargs: Any
) -> MLCAKForCXRClassification:
    """Load an MLCAK model in evaluation mode, with weights in 32 bit however they are stored.

    Args:
        source, role, error, kwargs:
            As in [`load_config`].

    Raises:
        [`MLCAKError`]: Of the class `error`, when it cannot be loaded or is not an MLCAK model.
    """
    source = resolve_checkpoint(str(source))
    load_config(source, role, error, revision=kwargs.get("revision"))
    with loading(source, role, error=error):
        # A config for a new training names no type: transformers would take that of the file, and training in 16 bit
        # soon gives NaN.
        options = {"dtype": torch.float32, "use_safetensors": True} | kwargs
        model, report = MLCAKForCXRClassification.from_pretrained(source, output_loading_info=True, **options)
        # A training may start from other labels; transformers would fill any other gap with random weights.
        if report["missing_keys"] and not kwargs.get("ignore_mismatched_sizes"):
            raise ValueError(
                f"its weights do not fit its config and lack {', '.join(sorted(report['missing_keys'])[:3])}"
            )
    found: MLCAKForCXRClassification = model
    return found


def load_processor(
    source: Source, config: PreTrainedConfig, role: str = "model", error: type[MLCAKError] = RecipeError, **kwargs: Any
) -> MLCAKImageProcessor:
    """Load the image processor that was saved with a model, and check that it fits.

    Args:
        source, role, error, kwargs:
            As in [`load_config`].
        config ([`MLCAKConfig`]):
            The model's config.

    Raises:
        [`MLCAKError`]: Of the class `error`, when there is none, or [`check_processor`] refuses it.
    """
    source = resolve_checkpoint(str(source))
    remedy = "Copy preprocessor_config.json from the folder that the model was trained in."
    with loading(source, f"image processor of the {role}", remedy, error):
        if Path(source).is_dir() and not any(Path(source).glob("*processor_config.json")):
            raise FileNotFoundError("the folder has no preprocessor_config.json")
        processor: MLCAKImageProcessor = MLCAKImageProcessor.from_pretrained(source, **kwargs)
    check_processor(processor, config, f"{role} {str(source)!r}", error)
    return processor


def check_processor(
    processor: MLCAKImageProcessor, config: PreTrainedConfig, model: str = "model", error: type[MLCAKError] = MLCAKError
) -> None:
    """Check that a processor makes images of the size and number of channels that a model takes.

    Args:
        processor ([`MLCAKImageProcessor`]):
            The processor.
        config ([`MLCAKConfig`]):
            The model's config.
        model (`str`, *optional*, defaults to `"model"`):
            Name of the model in the error.
        error (`type`, *optional*, defaults to [`MLCAKError`]):
            Class of the error.

    Raises:
        [`MLCAKError`]: Of the class `error`, when they do not fit.
    """
    made = (len(processor.image_mean), processor.size["height"], processor.size["width"])
    taken = (config.num_channels, config.image_size, config.image_size)
    if made != taken:
        raise error(
            f"The image processor of the {model} must make images of (channels, height, width) = {taken}; got {made}. "
            "Restore the preprocessor_config.json that was saved with the model."
        )
