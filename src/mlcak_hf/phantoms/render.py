"""Rendering of one phantom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from .canvas import Array, Mask, enlarge, soften
from .chest import AIR_SHARE, SOFT_PER_CM, Chest, add_breasts, add_gas, add_mediastinum, add_trunk
from .findings import Finding, add_findings, add_mimics
from .plan import Exposure, check_findings, draw_findings, stream
from .structures import add_lung_markings, add_spine, clavicles_and_shoulders, ribs

_COUNTS_IN_AIR = 45_000.0
_KNEE = 0.55


@dataclass(frozen=True)
class Phantom:
    """A synthetic radiograph.

    Args:
        pixels (`np.ndarray` of shape `(height, width)`):
            Display values as float32, 0 = dark (air). They go slightly beyond [0, 1], as the detector sees more than
            the display shows.
        collimated (`np.ndarray` of shape `(height, width)`):
            Boolean mask of the pixels outside the radiation field.
        findings (`tuple`):
            What the image really shows, with boxes.
        mimics (`tuple`):
            What a reader might mistake for a finding.
        exposure (`Exposure`):
            The patient, with pose, field of view and exposure.
    """

    pixels: Array
    collimated: Mask
    findings: tuple[Finding, ...]
    mimics: tuple[Finding, ...]
    exposure: Exposure


def render_phantom(
    seed: int = 0, split: str = "train", index: int = 0, size_px: int = 512, findings: Sequence[str] | None = None
) -> Phantom:
    """Render one synthetic frontal chest radiograph.

    Args:
        seed (`int`, *optional*, defaults to 0):
            Seed of the dataset.
        split (`str`, *optional*, defaults to `"train"`):
            `"train"` or `"test"`.
        index (`int`, *optional*, defaults to 0):
            Position in the split.
        size_px (`int`, *optional*, defaults to 512):
            Typical length of the shorter side in pixels; it varies by up to 12 percent.
        findings (`Sequence[str]`, *optional*):
            Names from `DRAWN_FINDINGS` to show instead of those drawn from the seed. Nothing else changes.

    Returns:
        [`Phantom`]: The image with its findings and boxes.

    Raises:
        [`DatasetError`]: When phantoms cannot show a finding.

    Example:
        ```python
        >>> from mlcak_hf.phantoms.render import render_phantom

        >>> [finding.name for finding in render_phantom(findings=["Cardiomegaly"]).findings]
        ['Cardiomegaly']
        ```
    """
    if findings is None:
        findings = draw_findings(seed, split, index)
    check_findings(findings)
    streams = partial(stream, seed, split, index)
    exposure, skeleton = Exposure(seed, split, index, size_px), streams("bones")

    chest = Chest(exposure, findings, streams)
    add_lung_markings(chest, streams("markings"))
    add_trunk(chest, streams("trunk"))
    add_mediastinum(chest)
    add_spine(chest, skeleton)
    add_breasts(chest, streams("breasts"))
    add_gas(chest, streams("gas"))
    mistaken = add_mimics(chest, streams("mimics"))
    drawn = add_findings(chest, findings, streams)

    height, width = chest.extra.shape
    total = enlarge(chest.smooth, 2 * chest.coarse.height, 2 * chest.coarse.width)[:height, :width]
    total = total - chest.air + chest.vessels + chest.extra
    total += ribs(chest, skeleton)
    total += clavicles_and_shoulders(chest, skeleton)
    pixels = _expose(np.maximum(total, 0), exposure, streams("noise"))
    collimated = _outside_collimation(exposure)
    pixels[collimated] = 0
    _add_side_marker(pixels, streams("marker"))
    return Phantom(pixels, collimated, drawn, mistaken, exposure)


def _expose(attenuation: Array, exposure: Exposure, g: np.random.Generator) -> Array:
    """Display values: transmission, scatter, detector blur, quantum noise, logarithm, tone curve."""
    height, width = attenuation.shape
    light = np.exp(-attenuation)
    in_body = light * (attenuation > 0.15)
    small = Image.fromarray(in_body).resize((max(2, width // 24), max(2, height // 24)), Image.Resampling.BOX)
    spread = soften(soften(np.asarray(small), 0.9), 0.9)
    light = soften(light + exposure.scatter * enlarge(spread, height, width), exposure.blur_px)
    deviation = np.sqrt(light * (1 / (_COUNTS_IN_AIR * exposure.dose)))
    light += deviation * g.standard_normal((height, width), dtype=np.float32)
    density = -np.log(np.maximum(light, 1e-4))

    # The exposure depends on the patient's size and not on the image, so that no finding can change it.
    soft, veil = SOFT_PER_CM * exposure.patient.depth, exposure.scatter * 0.16
    dark = -np.log(np.exp(-soft * (0.95 - 0.70 * AIR_SHARE)) + veil)
    bright = -np.log(np.exp(-(soft + 0.30)) + 0.75 * veil)
    span = (bright - dark) * 1.10 / exposure.contrast
    shown = (density - dark) / np.float32(span) + np.float32(0.36 + exposure.brightness)
    # Film and display compress bright values above the knee.
    over = np.maximum(shown - np.float32(_KNEE), 0)
    shown = np.minimum(shown, np.float32(_KNEE)) - np.float32(1 - _KNEE) * np.expm1(over * np.float32(-1 / (1 - _KNEE)))
    toned: Array = np.where(shown > 0.02, np.maximum(shown, 0.02) ** np.float32(exposure.gamma), shown)
    return toned.astype(np.float32)


def _outside_collimation(exposure: Exposure) -> Mask:
    height, width = exposure.height, exposure.width
    if not exposure.collimation.any():
        return np.zeros((height, width), dtype=bool)
    left, top, right, bottom = exposure.collimation.tolist()
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    down = rows + exposure.collimation_angle * (columns - width / 2)
    across = columns + exposure.collimation_angle * (height / 2 - rows)
    outside: Mask = (across < left * width) | (across >= width * (1 - right))
    outside |= (down < top * height) | (down >= height * (1 - bottom))
    return outside


_LETTERS: dict[str, list[list[tuple[float, float]]]] = {
    "L": [[(0, 0), (0, 1), (0.6, 1)]],
    "R": [[(0, 1), (0, 0), (0.5, 0), (0.62, 0.12), (0.62, 0.38), (0.5, 0.5), (0, 0.5)], [(0.3, 0.5), (0.65, 1)]],
}


def _add_side_marker(pixels: Array, g: np.random.Generator) -> None:
    height, width = pixels.shape
    u = g.random(6)
    if u[0] > 0.8:
        return
    letter = "L" if u[1] < 0.6 else "R"
    size = (0.028 + 0.018 * u[2]) * min(height, width)
    side = 0.90 + 0.03 * u[3] if letter == "L" else 0.06 + 0.03 * u[3]
    x0, y0 = side * width, (0.06 + 0.12 * u[4]) * height
    layer = Image.new("L", (width * 2, height * 2))
    pen = ImageDraw.Draw(layer)
    tilt = 0.3 * (u[5] - 0.5)
    for stroke in _LETTERS[letter]:
        points = [(2 * (x0 + size * (x - tilt * y)), 2 * (y0 + size * (y + tilt * x))) for x, y in stroke]
        pen.line(points, fill=255, width=max(2, round(0.34 * size)), joint="curve")
    alpha = np.asarray(layer.reduce(2), dtype=np.float32) * (1 / 255)
    pixels += alpha * (1.02 - pixels)
