"""The files of a trained model that may leave this machine, and a copy of exactly these."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from transformers.dynamic_module_utils import get_relative_imports
from transformers.utils import logging

from ..errors import DeploymentError
from ..evaluation.evidence.self_check import SELF_CHECK_FILE
from ..shipped import resolve_checkpoint
from ..trust.operating_points import OPERATING_POINTS_FILE, OperatingPoints
from ..trust.reference import REFERENCE_FILE, Reference

logger = logging.get_logger(__name__)

_REQUIRED_FILES = ("README.md", "config.json", "preprocessor_config.json")
_CODE = re.compile(r"[a-z_]+_mlcak\.py")
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_OPTIONAL_FILES = ("LICENSE", "model.safetensors.index.json", OPERATING_POINTS_FILE, REFERENCE_FILE, SELF_CHECK_FILE)
_MODEL_FILES = (*_REQUIRED_FILES, *_OPTIONAL_FILES)


def copy_model(source: str | Path, folder: Path) -> None:
    """Copy the files of a model, and nothing else, into a new folder.

    Everything else beside the model (checkpoints, predictions, radiographs) stays where it is and is named in a
    warning, because data use agreements often forbid sharing radiographs and what is derived from them.

    Args:
        source (`str` or `Path`):
            Folder that a training script wrote, with the card of `mlcak card`, or the name of a shipped checkpoint.
        folder (`Path`):
            Where to write.

    Raises:
        [`MLCAKError`]: When the source is missing, lacks a part of the model, or holds operating points of other
            weights.
    """
    path, files, code = checked_model(source)
    _check_card(path / "README.md")
    if left_out := sorted(entry.name for entry in path.iterdir() if entry.name not in files):
        logger.warning(f"Not uploaded, because they are not model files: {', '.join(left_out)} (in {path}).")
    folder.mkdir()
    for file in [*(path / name for name in files if (path / name).is_file()), *code]:
        shutil.copyfile(file, folder / file.name)


def checked_model(source: str | Path) -> tuple[Path, list[str], list[Path]]:
    """Check that a model is complete, before anything is uploaded.

    Args:
        source (`str` or `Path`):
            As for [`copy_model`].

    Returns:
        Its folder, the names of its files, and the files of its code that are outside the folder.

    Raises:
        [`MLCAKError`]: As from [`copy_model`].
    """
    path = Path(resolve_checkpoint(str(source)))
    # A shipped checkpoint: the package holds the code only once.
    code = sorted(Path(__file__).parents[1].glob("*_mlcak.py")) if str(path) != str(source) else []
    files = model_files(path, code)
    for beside in (OperatingPoints, Reference):
        beside.load(path)
    return path, files, code


def model_files(folder: str | Path, code: list[Path] | None = None) -> list[str]:
    """List the files of the model in a folder: weights, configuration, processor, code, card, operating points.

    Args:
        folder (`str` or `Path`):
            Folder that a training script wrote, with the card of `mlcak card`.
        code (`list[Path]`, *optional*):
            Code of the model outside the folder.

    Returns:
        `list[str]`: Sorted file names; nothing from subfolders.

    Raises:
        [`DeploymentError`]: When the folder is missing or lacks a part of the model.
    """
    folder = Path(folder)
    names = {path.name for path in [*folder.glob("*"), *(code or ())] if path.is_file()}
    weights = {name for name in names if _WEIGHTS.fullmatch(name)}
    missing = {*_REQUIRED_FILES, *_needed_code(folder), *([] if weights else ["model.safetensors"])} - names
    if missing:
        raise DeploymentError(
            f"{folder} lacks {', '.join(sorted(missing))}. A model on the Hub needs its weights, configuration, "
            "processor, code and card: `mlcak card FOLDER` writes the card, the training scripts write the rest."
        )
    return sorted(weights | {name for name in names if name in _MODEL_FILES or _CODE.fullmatch(name)})


def _needed_code(folder: Path) -> set[str]:
    """Files that the Auto classes ask for, and files that the code in the folder imports."""
    needed = {"modeling_mlcak"}
    for settings in ("config.json", "preprocessor_config.json"):
        if (folder / settings).is_file():
            auto_map = json.loads((folder / settings).read_text(encoding="utf-8")).get("auto_map", {})
            # "repository--module.Class" would fetch code from elsewhere; a folder must carry its own.
            needed |= {target.split("--")[-1].split(".")[0] for target in auto_map.values()}
    for code in folder.glob("*_mlcak.py"):
        needed |= set(get_relative_imports(code))
    return {f"{module}.py" for module in needed}


def _check_card(card: Path) -> None:
    """Refuse a card that the Hub cannot read, and warn of one without results."""
    try:
        results = ModelCard.load(card).data.eval_results
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise DeploymentError(
            f"{card} must begin with a header in YAML between two lines `---`; it cannot be read "
            f"({type(error).__name__}). `mlcak card FOLDER` writes one."
        ) from error
    if not results:
        logger.warning(
            f"{card} holds no measured results. Measure some first: `mlcak evaluate`, then `mlcak card --evaluation`."
        )
