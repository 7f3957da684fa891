"""Check the file of a radiograph: colour, size, shape, and what its DICOM header says it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from PIL import Image

_SMALLEST_SIDE_PX = 64
_LARGEST_ASPECT = 2.0
_COLOUR = 0.03  # mean difference between channels of a picture in [0, 1]; JPEG compression of grey stays below 0.01
# Coded values only, never text that may name a patient. A missing value says nothing.
_EXPECTED = {
    "Modality": ("CR", "DX", "DR", "RG"),
    "BodyPartExamined": ("CHEST", "THORAX", "PORTCHEST", "PORT CHEST", "LUNG"),
    "ViewPosition": ("PA", "AP"),
}


def file_warnings(file: Path, original_size: tuple[int, int]) -> list[str]:
    """Return what is unusual about a readable file.

    Args:
        file (`Path`):
            A radiograph that can be read.
        original_size (`tuple[int, int]`):
            Its height and width, in pixels.

    Returns:
        `list[str]`: One phrase for each warning.
    """
    warnings = []
    if min(original_size) < _SMALLEST_SIDE_PX:
        warnings.append(f"too small ({original_size[1]} x {original_size[0]} px)")
    if max(original_size) > _LARGEST_ASPECT * min(original_size):
        warnings.append(f"extreme shape ({original_size[1]} x {original_size[0]} px)")
    try:
        with Image.open(file) as picture:
            return [*warnings, *(["in colour"] if _is_coloured(picture) else [])]
    except (OSError, ValueError, Image.DecompressionBombError):
        return warnings + _header_warnings(file)


def _is_coloured(picture: Image.Image) -> bool:
    if picture.mode not in ("RGB", "RGBA", "P", "CMYK", "YCbCr"):
        return False
    picture.draft("RGB", (64, 64))
    channels = np.asarray(picture.convert("RGB").resize((64, 64), Image.Resampling.BOX), np.float32) / 255
    return float(np.mean(channels.max(-1) - channels.min(-1))) > _COLOUR


def _header_warnings(file: Path) -> list[str]:
    header = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=list(_EXPECTED))
    warnings = []
    for keyword, expected in _EXPECTED.items():
        value = str(header.get(keyword) or "").strip().upper()
        if value and value not in expected:
            shown = value if value.replace("_", "").replace(" ", "").isalnum() and len(value) <= 16 else "another value"
            warnings.append(f"not a frontal chest radiograph by its header ({keyword} {shown})")
    return warnings
