"""Files of weights in a folder, and their digest. Needs no other library."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .shipped import resolve_checkpoint


def weight_files(source: str | os.PathLike[str]) -> list[Path]:
    """List the files of weights in a local folder or a shipped checkpoint."""
    source = resolve_checkpoint(str(source))
    return [path for kind in ("*.safetensors", "pytorch_model*.bin") for path in sorted(Path(source).glob(kind))]


def weights_digest(source: str | os.PathLike[str]) -> str | None:
    """Return the SHA-256 of the weights in a local folder or a shipped checkpoint; `None` without any."""
    files, digest = weight_files(source), hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest() if files else None
