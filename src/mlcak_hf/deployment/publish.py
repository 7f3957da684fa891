"""Uploads to the Hub: a model in one or more forms, or a prepared dataset for those who may share it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, HfApi, get_token
from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, RepositoryNotFoundError  # type: ignore[attr-defined]

from ..errors import DeploymentError, MLCAKError
from ..preparation.report import PreparationReport
from .model_files import checked_model
from .repositories import Form, HubRepository, link_cards, named_repositories, write_repositories

AGREEMENT = (
    "If its source is VinDr-CXR, its user has agreed with PhysioNet: 'I will not share access to PhysioNet restricted "
    "data with anyone else.' That includes reduced images and a private repository that others can see."
)
# An existing repository with nothing else is taken for new.
_PLACEHOLDERS = {".gitattributes", ".gitignore", "README.md", "LICENSE"}
_LOG_IN = "Run `hf auth login` with a token that may write."
_REMEDIES = {400: "Correct this first.", 401: _LOG_IN, 403: f"Name a repository of your own, or: {_LOG_IN}"}
_AGAIN = "Run the same command again; what has not changed is not sent twice."
# In the repository of a model, files of an earlier version that must not stay beside the new ones.
_REPLACED = ["*_mlcak.py", "model*.safetensors*", "operating_points.json", "reference.npz", "self_check.json"]


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    forms: Sequence[Form] = (),
    private: bool = True,
    revision: str | None = None,
) -> dict[str, CommitInfo]:
    """Upload a model to the Hub, and on request what is exported from it, each to a repository of its own.

    The model, the login and existing repositories are checked first. Then everything is exported, and only then
    uploaded. Each repository gets one commit, the model first, so that the cards of the others name the model's commit.
    What has not changed is not sent again: after a broken connection, the same call goes on with what is missing.

    Only the files of the model are uploaded ([`copy_model`]), and what is exported from it.

    Args:
        folder (`str` or `Path`):
            Folder that a training script wrote, with the card of `mlcak card`, or the name of a shipped checkpoint.
        repo_id (`str`):
            Name of the model on the Hub, such as `"your-name/mlcak-student-28"`. Repositories are created if missing.
        forms (`Sequence[str]`, *optional*):
            `"vit"`, `"onnx"`, `"space"` and `"page"`, as in [`write_repositories`].
        private (`bool`, *optional*, defaults to `True`):
            Whether new repositories are private. Existing ones keep their visibility.
        revision (`str`, *optional*):
            Branch to upload to, created if missing; `main` by default.

    Returns:
        `dict[str, CommitInfo]`: By repository, the model first. The `oid` pins a state of the model in
        `from_pretrained(..., revision=oid)`.

    Raises:
        [`MLCAKError`]: When the model is incomplete, an export fails, a repository holds something else, or the Hub
            refuses the upload or cannot be reached.
    """
    if revision is not None and (spaces := {"space", "page"} & set(forms)):
        raise DeploymentError(
            f"A Space runs its main branch only; got --revision {revision} with {', '.join(sorted(spaces))}. Push it "
            "without --revision, or without the Space."
        )
    checked_model(folder)
    pushed: dict[str, CommitInfo] = {}
    with TemporaryDirectory() as place:
        output = Path(place, "repositories")
        repositories = named_repositories(repo_id, forms, output)
        with _hub_errors(repo_id, pushed):
            HfApi().whoami()
            for repository in repositories:
                _check_existing(repository)
        write_repositories(folder, repositories, output)
        for repository in repositories:
            with _hub_errors(repository.repo_id, pushed):
                pushed[repository.repo_id] = _push(repository, private, revision)
            if repository.form == "model":
                link_cards(repositories, pushed[repo_id].oid)
    return pushed


def _push(repository: HubRepository, private: bool, revision: str | None) -> CommitInfo:
    HfApi().create_repo(
        repository.repo_id, repo_type=repository.repo_type, space_sdk=repository.sdk, private=private, exist_ok=True
    )
    return _upload(
        repository.folder,
        {"repo_id": repository.repo_id, "repo_type": repository.repo_type},
        revision,
        "Upload MLCAK model",
        delete_patterns=_REPLACED if repository.form == "model" else "*",
    )


def _check_existing(repository: HubRepository) -> None:
    """Refuse a repository that holds something else than a model of this package."""
    try:
        found: Any = HfApi().repo_info(repository.repo_id, repo_type=repository.repo_type)
    except RepositoryNotFoundError:
        return
    files = {entry.rfilename for entry in found.siblings or ()}
    if files <= _PLACEHOLDERS or "mlcak" in (found.tags or ()) or "modeling_mlcak.py" in files:
        return
    raise DeploymentError(
        f"{repository.repo_id} exists and holds something else than a model of mlcak-hf; nothing was uploaded. Choose "
        "another name."
    )


@contextmanager
def _hub_errors(repo_id: str, pushed: dict[str, CommitInfo]) -> Iterator[None]:
    """Say in one sentence what the Hub, or the way to it, did not do."""
    done = f"Uploaded so far: {', '.join(pushed)}." if pushed else "Nothing was uploaded."
    try:
        yield
    except MLCAKError:
        raise
    except (HTTPError, OSError, ValueError) as error:
        reason, status = _reason(error)
        raise DeploymentError(
            f"{repo_id} was not uploaded: {reason}. {done} {_REMEDIES.get(status, _AGAIN)}"
        ) from error


def _reason(error: Exception) -> tuple[str, int]:
    """What went wrong, and the status that the Hub answered; 0 for a broken connection, 400 for what it never gets."""
    response = getattr(error, "response", None)
    status = int(getattr(response, "status_code", 400 if isinstance(error, ValueError) else 0))
    if status == 401 or isinstance(error, LocalTokenNotFoundError):
        status = 401
        return "the Hub does not accept the token" if get_token() else "this machine has no token for the Hub", status
    if status == 403:
        return "the token may not write there", status
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".:"), status


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
    api, shards = HfApi(), "data/*.parquet"
    with _hub_errors(repo_id, {}):
        repo = api.create_repo(repo_id, repo_type="dataset", private=True, exist_ok=True)
        where: dict[str, Any] = {"repo_id": repo.repo_id, "repo_type": "dataset"}
        if not api.repo_info(**where).private:
            raise DeploymentError(
                f"{repo_id} is public, and nothing was uploaded. Make it private, or name another one."
            )
        files = ["README.md", "preparation.json", shards]
        # Old shards are deleted: an earlier version may have had more of them.
        return _upload(
            folder, where, revision, "Upload prepared radiographs", allow_patterns=files, delete_patterns=shards
        )


def is_prepared_dataset(folder: str | Path) -> bool:
    """Check whether `mlcak prepare` wrote the folder."""
    return (Path(folder) / "preparation.json").is_file()


def _upload(
    folder: str | Path, where: dict[str, Any], revision: str | None, message: str, **patterns: Any
) -> CommitInfo:
    if revision is not None:
        HfApi().create_branch(**where, branch=revision, exist_ok=True)
    commit: CommitInfo = HfApi().upload_folder(
        **where, folder_path=folder, revision=revision, commit_message=message, **patterns
    )
    return commit
