"""Uploads to the Hub: a model with nothing but its own files, or a prepared dataset for those who may share it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, HfApi, RepoUrl
from transformers.dynamic_module_utils import get_relative_imports
from transformers.utils import logging

from ..errors import DeploymentError
from ..evaluation.evidence.self_check import SELF_CHECK_FILE
from ..preparation.report import PreparationReport
from ..shipped import resolve_checkpoint
from ..trust.operating_points import OPERATING_POINTS_FILE, OperatingPoints
from ..trust.reference import REFERENCE_FILE, Reference

logger = logging.get_logger(__name__)

AGREEMENT = (
    "If its source is VinDr-CXR, its user has agreed with PhysioNet: 'I will not share access to PhysioNet restricted "
    "data with anyone else.' That includes reduced images and a private repository that others can see."
)
_REQUIRED_FILES = ("README.md", "config.json", "preprocessor_config.json")
_CODE = re.compile(r"[a-z_]+_mlcak\.py")
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_OPTIONAL_FILES = ("LICENSE", "model.safetensors.index.json", OPERATING_POINTS_FILE, REFERENCE_FILE, SELF_CHECK_FILE)
_MODEL_FILES = (*_REQUIRED_FILES, *_OPTIONAL_FILES)


def push_to_hub(folder: str | Path, repo_id: str, *, private: bool = True, revision: str | None = None) -> CommitInfo:
    """Upload the model in a folder to a model repository on the Hub, in one commit.

    Only the files of the model are uploaded ([`model_files`]). Everything else in the folder (checkpoints, predictions,
    radiographs) stays where it is and is named in a warning, because data use agreements often forbid sharing
    radiographs and what is derived from them.

    Args:
        folder (`str` or `Path`):
            Folder that a training script wrote, with the card of `mlcak card`, or the name of a shipped checkpoint.
        repo_id (`str`):
            Name on the Hub, such as `"your-name/mlcak-student-28"`. The repository is created if missing.
        private (`bool`, *optional*, defaults to `True`):
            Whether a new repository is private. An existing one keeps its visibility.
        revision (`str`, *optional*):
            Branch to upload to, created if missing; `main` by default.

    Returns:
        `CommitInfo`: Its `oid` pins this state of the model in `from_pretrained(..., revision=oid)`.

    Raises:
        [`MLCAKError`]: When the folder is missing, lacks a part of the model, or holds operating points of others.
    """
    shipped = resolve_checkpoint(str(folder))
    if shipped != str(folder):
        with TemporaryDirectory() as place:
            complete = _with_code(Path(shipped), Path(place))
            return push_to_hub(complete, repo_id, private=private, revision=revision)
    folder = Path(folder)
    files = model_files(folder)
    for beside in (OperatingPoints, Reference):
        beside.load(folder)
    left_out = sorted(path.name for path in folder.iterdir() if path.name not in files)
    if left_out:
        logger.warning(f"Not uploaded, because they are not model files: {', '.join(left_out)} (in {folder}).")
    repo = HfApi().create_repo(repo_id, private=private, exist_ok=True)
    return _upload(folder, repo, revision, "Upload MLCAK model", allow_patterns=files)


def push_dataset_to_hub(
    folder: str | Path, repo_id: str, *, i_may_share_this_data: bool, revision: str | None = None
) -> CommitInfo:
    """Upload a prepared dataset to a private dataset repository on the Hub, in one commit.

    Args:
        folder (`str` or `Path`):
            Folder that `mlcak prepare` wrote. Its card, its record and its Parquet files are uploaded, nothing else.
        repo_id (`str`):
            Name on the Hub. The repository is created, private, if missing.
        i_may_share_this_data (`bool`):
            Acknowledgement by the person bound by the data use agreement.
        revision (`str`, *optional*):
            Branch to upload to, created if missing; `main` by default.

    Returns:
        `CommitInfo`

    Raises:
        [`DeploymentError`]: Without the acknowledgement, or when the repository is public.
        [`DatasetError`]: When the folder holds no prepared dataset.

    Example:

    ```python
    >>> from mlcak_hf.deployment.publish import push_dataset_to_hub
    >>> push_dataset_to_hub("phantoms-256", "your-name/phantoms", i_may_share_this_data=True)  # doctest: +SKIP
    ```
    """
    PreparationReport.read(folder)
    if not i_may_share_this_data:
        raise DeploymentError(
            f"{folder} is a dataset of radiographs, and nothing was uploaded. {AGREEMENT} If you may upload it, "
            "confirm with --i-may-share-this-data."
        )
    api = HfApi()
    repo = api.create_repo(repo_id, repo_type="dataset", private=True, exist_ok=True)
    if not api.repo_info(repo.repo_id, repo_type="dataset").private:
        raise DeploymentError(f"{repo_id} is public, and nothing was uploaded. Make it private, or name another one.")
    shards = "data/*.parquet"
    files = ["README.md", "preparation.json", shards]
    # Old shards are deleted: an earlier version may have had more of them.
    return _upload(folder, repo, revision, "Upload prepared radiographs", allow_patterns=files, delete_patterns=shards)


def is_prepared_dataset(folder: str | Path) -> bool:
    """Check whether `mlcak prepare` wrote the folder."""
    return (Path(folder) / "preparation.json").is_file()


def model_files(folder: str | Path) -> list[str]:
    """List the files of the model in a folder: weights, configuration, processor, code, card, operating points.

    Args:
        folder (`str` or `Path`):
            Folder that a training script wrote, with the card of `mlcak card`.

    Returns:
        `list[str]`: Sorted file names; nothing from subfolders.

    Raises:
        [`DeploymentError`]: When the folder is missing or lacks a part of the model.
    """
    folder = Path(folder)
    names = {path.name for path in folder.glob("*") if path.is_file()}
    weights = {name for name in names if _WEIGHTS.fullmatch(name)}
    missing = {*_REQUIRED_FILES, *_needed_code(folder), *([] if weights else ["model.safetensors"])} - names
    if missing:
        raise DeploymentError(
            f"{folder} lacks {', '.join(sorted(missing))}. A model on the Hub needs its weights, configuration, "
            "processor, code and card: `mlcak card FOLDER` writes the card, the training scripts write the rest."
        )
    return sorted(weights | {name for name in names if name in _MODEL_FILES or _CODE.fullmatch(name)})


def _with_code(checkpoint: Path, place: Path) -> Path:
    """Copy a shipped checkpoint and the code that the Hub needs; the package holds the code only once."""
    complete = Path(shutil.copytree(checkpoint, place / checkpoint.name))
    for code in Path(__file__).parents[1].glob("*_mlcak.py"):
        shutil.copy(code, complete)
    return complete


def _upload(folder: str | Path, repo: RepoUrl, revision: str | None, message: str, **patterns: Any) -> CommitInfo:
    where: dict[str, Any] = {"repo_id": repo.repo_id, "repo_type": repo.repo_type}
    if revision is not None:
        HfApi().create_branch(**where, branch=revision, exist_ok=True)
    commit: CommitInfo = HfApi().upload_folder(
        **where, folder_path=folder, revision=revision, commit_message=message, **patterns
    )
    return commit


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
