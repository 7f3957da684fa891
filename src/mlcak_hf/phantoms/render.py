"""One phantom: from its place in the data set to the picture and what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from . import anatomy, bones, markings, mimics
from .canvas import Canvas, FloatArray, enlarge, soften
from .findings import Finding, OutlinePlan, add_findings, pour_effusion
from .plan import DRAWN_FINDINGS, Exposure, Patient, check_findings, draw_findings, patient_index, stream

_COUNTS_IN_AIR = 45_000.0
_KNEE = 0.55


@dataclass(frozen=True)
class Phantom:
    """A synthetic radiograph.

    Args:
        pixels: Display values, float32 of shape (height, width), 0 = dark (air). Values a little outside [0, 1] occur:
            the detector sees more than the display shows.
        collimated: True where no radiation was let through, bool of shape (height, width).
        findings: What it truly shows, with boxes.
        mimics: What a reader might take for a finding.
        patient: Who was imaged.
    """

    pixels: FloatArray
    collimated: npt.NDArray[np.bool_]
    findings: tuple[Finding, ...]
    mimics: tuple[Finding, ...]
    patient: Patient


def render_phantom(
    seed: int = 0, split: str = "train", index: int = 0, size_px: int = 512, findings: Sequence[str] | None = None
) -> Phantom:
    """Render one synthetic frontal chest radiograph.

    Args:
        seed: Seed of the data set.
        split: "train" or "test".
        index: Position in the split, from 0.
        size_px: Typical length of the shorter side in pixels; it varies by some per cent from image to image.
        findings: Names out of `DRAWN_FINDINGS` to show instead of those that the seed draws. All else stays the same.

    Returns:
        The picture with its findings and boxes.

    Raises:
        DatasetError: If a finding is never drawn.

    Example:
        >>> from mlcak_hf.data.phantom import render_phantom
        >>> [finding.name for finding in render_phantom(findings=["Cardiomegaly"]).findings]
        ['Cardiomegaly']
    """
    names = draw_findings(seed, split, index) if findings is None else check_findings(findings)
    generators = {name: stream(seed, split, index, name) for name in DRAWN_FINDINGS}
    patient = Patient.draw(seed, split, patient_index(index))
    exposure = Exposure.draw(seed, split, index, size_px, patient)
    shape = stream(seed, split, index, "shape")
    canvas = Canvas(exposure)

    plan = OutlinePlan.draw(names, generators)
    outlines = anatomy.draw_outlines(patient, exposure, shape, plan.heart_ratio, plan.knob, plan.aorta_right)
    fluid = pour_effusion(outlines, generators["Pleural effusion"]) if "Pleural effusion" in names else []
    lung, air = anatomy.lungs(canvas, patient, outlines)
    vessels = markings.lung_markings(canvas, patient, outlines, lung, stream(seed, split, index, "markings"))
    coarse = Canvas(exposure, coarser=2)
    skeleton = stream(seed, split, index, "bones")
    smooth = anatomy.trunk(coarse, patient, outlines, stream(seed, split, index, "trunk"))
    smooth += anatomy.mediastinum(coarse, patient, exposure, outlines)
    smooth += bones.spine(coarse, patient, skeleton)
    chest = anatomy.Chest(canvas, patient, exposure, outlines, lung, air, vessels, coarse, smooth)
    mimics.add_breasts(chest, stream(seed, split, index, "breasts"))
    mimics.add_gas(chest, stream(seed, split, index, "gas"))
    taken = mimics.add_mimics(chest, stream(seed, split, index, "mimics"))
    drawn = add_findings(chest, names, generators, fluid)

    total = enlarge(chest.smooth, 2 * coarse.height, 2 * coarse.width)[: canvas.height, : canvas.width]
    total = total - chest.air + chest.vessels + chest.extra
    total += bones.ribs(canvas, patient, outlines, skeleton)
    total += bones.clavicles_and_shoulders(canvas, patient, exposure, skeleton)

    pixels = _expose(np.maximum(total, 0, out=total), patient, exposure, stream(seed, split, index, "noise"))
    collimated = _collimate(exposure)
    pixels[collimated] = 0
    _mark(pixels, exposure, stream(seed, split, index, "marker"))
    return Phantom(pixels, collimated, drawn, taken, patient)


def _expose(attenuation: FloatArray, patient: Patient, exposure: Exposure, g: np.random.Generator) -> FloatArray:
    """Return display values: transmission, scatter, detector blur, quantum noise, logarithm, tone."""
    height, width = attenuation.shape
    light = np.exp(-attenuation)
    in_body = light * (attenuation > 0.15)
    small = Image.fromarray(in_body).resize((max(2, width // 24), max(2, height // 24)), Image.Resampling.BOX)
    spread = np.asarray(small, dtype=np.float32)
    for _ in range(2):
        spread = soften(spread, 0.9)
    light += np.float32(exposure.scatter) * enlarge(spread, height, width)
    light = soften(light, exposure.blur_px)
    deviation = np.sqrt(light * np.float32(1 / (_COUNTS_IN_AIR * exposure.dose)))
    light += deviation * g.standard_normal((height, width), dtype=np.float32)
    density = -np.log(np.maximum(light, 1e-4))

    # The exposure is set for the patient's size, not for the picture: no finding can change it.
    soft = anatomy.SOFT_PER_CM * patient.depth
    veil = exposure.scatter * 0.16
    dark = -np.log(np.exp(-soft * (0.95 - 0.70 * anatomy.AIR_SHARE)) + veil)
    bright = -np.log(np.exp(-(soft + 0.30)) + 0.75 * veil)
    span = (bright - dark) * 1.10 / exposure.contrast
    shown = (density - dark) / np.float32(span) + np.float32(0.36 + exposure.brightness)
    # Film and display compress what is bright: shoulder above the knee.
    over = np.maximum(shown - np.float32(_KNEE), 0)
    shown = np.minimum(shown, np.float32(_KNEE)) - np.float32(1 - _KNEE) * np.expm1(over * np.float32(-1 / (1 - _KNEE)))
    toned: FloatArray = np.where(shown > 0.02, np.maximum(shown, 0.02) ** np.float32(exposure.gamma), shown)
    out: FloatArray = toned.astype(np.float32, copy=False)
    return out


def _collimate(exposure: Exposure) -> npt.NDArray[np.bool_]:
    height, width = exposure.height, exposure.width
    if exposure.collimation is None:
        return np.zeros((height, width), dtype=bool)
    left, top, right, bottom = exposure.collimation
    tilt = exposure.collimation_angle * (np.arange(width, dtype=np.float32) - width / 2)[None]
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None] + exposure.collimation_angle * (height / 2 - rows)
    outside = (columns < left * width) | (columns >= width * (1 - right))
    result: npt.NDArray[np.bool_] = outside | (rows + tilt < top * height) | (rows + tilt >= height * (1 - bottom))
    return result


_LETTERS: dict[str, list[list[tuple[float, float]]]] = {
    "L": [[(0, 0), (0, 1), (0.6, 1)]],
    "R": [[(0, 1), (0, 0), (0.5, 0), (0.62, 0.12), (0.62, 0.38), (0.5, 0.5), (0, 0.5)], [(0.3, 0.5), (0.65, 1)]],
}


def _mark(pixels: FloatArray, exposure: Exposure, g: np.random.Generator) -> None:
    """Lay the lead letter of the side on most images, in place."""
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
    alpha = np.asarray(layer.reduce(2), dtype=np.float32) * np.float32(1 / 255)
    pixels += alpha * (np.float32(1.02) - pixels)
