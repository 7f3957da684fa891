"""A prepared dataset's way to the Hub: only for those who say that they may, and never public."""

import os
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi

from ..errors import DeploymentError
from ..preparation.report import read_preparation

AGREEMENT = (
    "If its source is VinDr-CXR, its user has agreed with PhysioNet: 'I will not share access to PhysioNet restricted "
    "data with anyone else.' That holds for reduced images, too, and for a private repository that others can see."
)


def is_prepared_dataset(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds what `mlcak prepare` wrote, and not a model."""
    return (Path(folder) / "preparation.json").is_file()


def push_dataset_to_hub(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    i_may_share_this_data: bool,
    revision: str | None = None,
    token: str | bool | None = None,
) -> CommitInfo:
    """Upload a prepared dataset to a private dataset repository on the Hub, in one commit.

    Args:
        folder: What `mlcak prepare` wrote; its card, its record and its Parquet files are uploaded, nothing else.
        repo_id: Name on the Hub. The repository is made, private, if it is missing.
        i_may_share_this_data: The acknowledgement, by whoever is bound by the data's agreement.
        revision: Branch to upload to, made if it is missing; `main` by default.
        token: Access token, or the one that `hf auth login` stored, by default.

    Returns:
        The commit.

    Raises:
        DeploymentError: Without the acknowledgement, or if the repository is public.
        DatasetError: If the folder holds no prepared dataset.

    Example:

    ```python
    >>> from mlcak_hf.deployment import push_dataset_to_hub
    >>> push_dataset_to_hub("phantoms-256", "your-name/phantoms", i_may_share_this_data=True)  # doctest: +SKIP
    ```
    """
    read_preparation(folder)
    if not i_may_share_this_data:
        raise DeploymentError(
            f"{folder} is a dataset of radiographs, and nothing of it was sent. {AGREEMENT} If you may upload it"
            " all the same, say so: --i-may-share-this-data"
        )
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, repo_type="dataset", private=True, exist_ok=True).repo_id
    if not api.repo_info(repo_id, repo_type="dataset").private:
        raise DeploymentError(
            f"the repository {repo_id} is public, and nothing of {folder} was sent; make it private, or name another"
        )
    if revision is not None:
        api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
    return api.upload_folder(
        repo_id=repo_id,
        repo_type="dataset",
        folder_path=Path(folder),
        allow_patterns=["README.md", "preparation.json", "data/*.parquet"],
        delete_patterns=["data/*.parquet"],  # shards of an earlier version with another number of shards
        revision=revision,
        commit_message="Upload prepared radiographs",
    )
