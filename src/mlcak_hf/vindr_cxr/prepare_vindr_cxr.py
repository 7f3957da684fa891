"""VinDr-CXR -> a folder of Parquet files, in one call."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from ..preparation.prepare import prepare_dataset
from ..preparation.report import PreparationReport
from .options import VinDrOptions
from .vindr_source import VinDrSource


def prepare_vindr_cxr(
    data_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    options: VinDrOptions | None = None,
    *,
    num_proc: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **choices: Any,
) -> PreparationReport:
    """Write a local folder in VinDr-CXR's layout as a dataset that `load_dataset(output_dir)` reads anywhere.

    Args:
        data_dir (`str` or `os.PathLike`):
            Folder in PhysioNet's or Kaggle's layout, as in [`VinDrSource`].
        output_dir (`str` or `os.PathLike`):
            Folder to write; must be new or empty.
        options (`VinDrOptions`, *optional*):
            The choices.
        num_proc (`int`, *optional*, defaults to 1):
            Number of processes that decode at the same time.
        overwrite (`bool`, *optional*, defaults to `False`):
            Replace an earlier dataset, as in [`prepare_dataset`].
        progress (`bool`, *optional*, defaults to `True`):
            Show a progress bar.
        choices (*optional*):
            Single choices, named as in [`VinDrOptions`], which take precedence over `options`.

    Returns:
        `PreparationReport`: What was written and what was left out.

    Raises:
        [`DatasetError`], [`LabelError`], [`DicomError`]: As in [`prepare_dataset`].

    Example:
        ```python
        >>> from mlcak_hf import prepare_vindr_cxr

        >>> report = prepare_vindr_cxr("vindr-cxr/1.0.0", "vindr-256", size_px=256, num_proc=4)  # doctest: +SKIP
        >>> report.splits["train"].images, len(report.skipped)  # doctest: +SKIP
        ```
    """
    source = VinDrSource(data_dir, replace(options or VinDrOptions(), **choices))
    return prepare_dataset(source, output_dir, num_proc=num_proc, overwrite=overwrite, progress=progress)
