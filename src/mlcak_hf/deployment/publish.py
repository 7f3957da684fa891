"""A model folder that runs by itself, and its way to the Hub: model files only, private unless told otherwise."""

import json
import os
import re
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, ModelCard
from transformers.dynamic_module_utils import get_relative_imports
from transformers.utils import logging

from ..errors import DeploymentError
from ..image_processing_mlcak import MLCAKImageProcessor
from ..modeling_mlcak import MLCAKForCXRClassification
from .model_card import card_for_folder

logger = logging.get_logger(__name__)

_REQUIRED_FILES = ("README.md", "config.json", "preprocessor_config.json")
_CODE = re.compile(r"[a-z_]+_mlcak\.py")
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_OTHER_MODEL_FILES = frozenset({"LICENSE", "model.safetensors.index.json"})


def save_for_hub(
    model: MLCAKForCXRClassification,
    processor: MLCAKImageProcessor,
    folder: str | os.PathLike[str],
    card: ModelCard | None = None,
) -> Path:
    """Save a model with everything it needs to run elsewhere: weights, configuration, processor, code and model card.

    Args:
        model: The trained model.
        processor: The processor it was trained with.
        folder: Folder to write; made if it is missing.
        card: Its model card; by default that of [`card_for_folder`], which says that nothing was measured.

    Returns:
        The folder.
    """
    folder = Path(folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if card is None:
        card = card_for_folder(folder)
    card.save(folder / "README.md")
    return folder


def push_to_hub(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    commit_message: str = "Upload MLCAK model",
    token: str | bool | None = None,
) -> CommitInfo:
    """Upload the model in a folder to a model repository on the Hub, in one commit.

    Only files that make up a model are uploaded; see [`model_files`]. What else lies in the folder (checkpoints,
    predictions, radiographs) stays where it is and is named in a warning: radiographs and what is derived from them are
    often under a data use agreement that forbids passing them on.

    Args:
        folder: What [`save_for_hub`] wrote.
        repo_id: Name on the Hub, such as `"your-name/mlcak-student-28"`. The repository is made if it is missing.
        private: Whether a repository that is made here is private. An existing one keeps its visibility.
        revision: Branch to upload to, made if it is missing; `main` by default.
        commit_message: Message of the commit.
        token: Access token, or the one that `hf auth login` stored, by default.

    Returns:
        The commit; `oid` pins this state of the model in `from_pretrained(..., revision=oid)`.

    Raises:
        DeploymentError: If the folder is missing or lacks a part of the model.
    """
    folder = Path(folder)
    files = model_files(folder)
    left_out = sorted(path.name for path in folder.iterdir() if path.name not in files)
    if left_out:
        logger.warning(f"Not uploaded, because they are no model files: {', '.join(left_out)} (in {folder}).")
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        allow_patterns=files,
        revision=revision,
        commit_message=commit_message,
    )


def model_files(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the files in a folder that make up the model: configuration, processor, code, weights, card, licence.

    Args:
        folder: What [`save_for_hub`] wrote.

    Returns:
        Sorted file names; nothing from subfolders.

    Raises:
        DeploymentError: If the folder is missing or lacks a part of the model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DeploymentError(f"No folder at {folder}: name the one that save_for_hub wrote.")
    names = {path.name for path in folder.iterdir() if path.is_file()}
    code, weights = (
        {name for name in names if _CODE.fullmatch(name)},
        {name for name in names if _WEIGHTS.fullmatch(name)},
    )
    missing = {*_REQUIRED_FILES, *_needed_code(folder)} - names
    if not weights:
        missing.add("model.safetensors")
    if missing:
        raise DeploymentError(
            f"{folder} lacks {', '.join(sorted(missing))}: a model on the Hub carries its weights, configuration, "
            "processor, code and card. `mlcak card FOLDER` writes the card; the training scripts write the rest."
        )
    return sorted(names & {*_REQUIRED_FILES, *_OTHER_MODEL_FILES, *code, *weights})


def _needed_code(folder: Path) -> set[str]:
    """Files that the Auto classes will ask for, and those that these import."""
    needed: set[str] = set()
    for settings in ("config.json", "preprocessor_config.json"):
        if (folder / settings).is_file():
            auto_map = json.loads((folder / settings).read_text(encoding="utf-8")).get("auto_map", {})
            # "repository--module.Class" would fetch the code from elsewhere; a folder is to carry its own.
            needed |= {f"{target.split('--')[-1].split('.')[0]}.py" for target in auto_map.values()}
    waiting = list(needed)
    while waiting:
        file = folder / waiting.pop()
        imported = {f"{name}.py" for name in get_relative_imports(file)} if file.is_file() else set()
        waiting += imported - needed
        needed |= imported
    return needed or {"modeling_mlcak.py"}
