"""Check whether a file shows an upright frontal chest radiograph: its header, colour, size and content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image

from ..radiographs.polarity import brightness_grid, looks_inverted

_SMALLEST_SIDE_PX = 64
_LARGEST_ASPECT = 2.0
_COLOUR = 0.03  # mean difference between channels of a picture in [0, 1]; JPEG compression of grey stays below 0.01
# Coded values only, never text that may name a patient. A missing value says nothing.
_EXPECTED = {
    "Modality": ("CR", "DX", "DR", "RG"),
    "BodyPartExamined": ("CHEST", "THORAX", "PORTCHEST", "PORT CHEST", "LUNG"),
    "ViewPosition": ("PA", "AP"),
}

# Linear discriminants of the standardised 5 x 5 brightness grid: upright against upside down, and against turned by 90
# degrees. Ridge regression on half of the patients of NIH ChestX-ray14 and Kermany; both mirror-symmetric.
_NOT_UPSIDE_DOWN = np.array(
    [
        [0.052, -0.228, -0.116, -0.228, 0.052],
        [0.056, 0.116, -0.158, 0.116, 0.056],
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [-0.056, -0.116, 0.158, -0.116, -0.056],
        [-0.052, 0.228, 0.116, 0.228, -0.052],
    ]
)
_NOT_TURNED = np.array(
    [
        [-0.006, -0.115, 0.166, -0.115, -0.006],
        [0.090, -0.042, 0.156, -0.042, 0.090],
        [-0.236, -0.068, -0.099, -0.068, -0.236],
        [-0.014, 0.001, 0.210, 0.001, -0.014],
        [0.075, -0.009, 0.216, -0.009, 0.075],
    ]
)
# Chosen by hand with the figures of both halves in view, so the half that was not fitted is not an untouched test set.
_LEAST_UPRIGHT, _LEAST_NOT_TURNED = -0.06, 0.25
_LEAST_RANGE = 0.03
_LEAST_NEIGHBOUR_CORRELATION = 0.6

NOTHING_VISIBLE = "no contrast"


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


def image_warnings(image: npt.NDArray[np.float32]) -> list[str]:
    """Return what is unusual about the content of a radiograph.

    Args:
        image (`np.ndarray` of shape `(64, 64)`):
            The radiograph in [0, 1], squashed to a square.

    Returns:
        `list[str]`: At most one phrase; `NOTHING_VISIBLE` if nothing can be seen.
    """
    low, high = np.percentile(image, (0.5, 99.5))
    if high - low < _LEAST_RANGE:
        return [NOTHING_VISIBLE]
    # Neighbouring pixels correlate by about 0.95 in radiographs, by 0 in white noise.
    if np.corrcoef(image[:, :-1].ravel(), image[:, 1:].ravel())[0, 1] < _LEAST_NEIGHBOUR_CORRELATION:
        return ["noise"]
    grid = brightness_grid(image)
    standardised = (grid - grid.mean()) / max(float(grid.std()), 1e-9)
    upright = (standardised * _NOT_UPSIDE_DOWN).sum() >= _LEAST_UPRIGHT
    turned = (standardised * _NOT_TURNED).sum() < _LEAST_NOT_TURNED
    # A negative and an upside-down chest look alike in the grid, so that they are not told apart.
    return ["looks inverted, upside down or turned"] if looks_inverted(image) or turned or not upright else []
