"""What others may read of a path on this machine: its last part, because folders name users, projects and patients."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

# A sentence, a list of counts or a URL: a slash in it separates no folders.
_NO_PATH = re.compile(r"[(),;:{}]")
_FROM_HERE = ("./", "../", "~", ".\\", "..\\", "file:/")


def without_folders(value: Any) -> Any:
    """A value with the last part of every local path in it; what is no path stays as it is.

    Paths are absolute (of any system), exist, or have more parts than a Hub id (`owner/name`), which stays whole.

    Args:
        value: a path, a text or a number, or lists and mappings of them.

    Returns:
        The same in plain types: tuples become lists, path objects text.

    Example:

    ```python
    >>> without_folders(["/home/someone/runs/teacher", "google/vit-base-patch16-224", 0.5])
    ['teacher', 'google/vit-base-patch16-224', 0.5]
    ```
    """
    if isinstance(value, Mapping):
        return {name: without_folders(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(entry) for entry in value]
    if isinstance(value, os.PathLike):
        return _last_part(os.fspath(value))
    return _last_part(value) if isinstance(value, str) and _is_path(value) else value


def _is_path(text: str) -> bool:
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith(_FROM_HERE):
        return True
    if _exists(text):
        return True
    return _NO_PATH.search(text) is None and (text.count("/") > 1 or "\\" in text)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists() and text != ""
    except (OSError, ValueError):
        return False  # Too long, or of characters that no name has.


def _last_part(path: str) -> str:
    name = PureWindowsPath(path).name  # Windows' rules know both separators.
    return Path(path).resolve().name if name in ("", "..") else name
