"""Outlines of the chest, and the attenuation of its soft tissue.

The image is a sum of attenuation along each ray, as in a radiograph: trunk minus air, plus bones, vessels and whatever
a finding adds. Lengths are cm on the detector; attenuation is the natural logarithm of the transmission, negated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .canvas import Canvas, FloatArray, at, ramp, smooth_curve, table_axis
from .plan import Exposure, Patient

#: Effective attenuation of soft tissue per cm at the beam quality of a chest radiograph.
SOFT_PER_CM = 0.155
#: Share of the lung's depth that is air.
AIR_SHARE = 0.74
#: Sides of the body as signs of `x`: the patient's right lung is on the left of the image.
RIGHT, LEFT = -1, 1


@dataclass
class Outlines:
    """Borders of the organs, tabulated over y (cm below the apex) or over x (cm from the spine)."""

    lung_height: float
    half_width: float
    lateral: FloatArray  # over y: outer lung border
    medial: FloatArray  # over y: inner lung border behind the heart
    mediastinum: dict[int, FloatArray]  # by side, over y: border of vessels and heart, positive cm from the midline
    diaphragm: FloatArray  # over x
    diaphragm_softness: FloatArray  # over x: width of the edge
    heart_right: float
    heart_left: float
    knob_y: float
    knob_x: float

    def inside_lung(self, side: int, across: npt.ArrayLike, along: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map lung coordinates to anatomical points (..., 2).

        Args:
            side (`int`):
                `RIGHT` or `LEFT`.
            across (array):
                0 at the mediastinal border, 1 at the chest wall.
            along (array):
                0 at the apex, 1 at the diaphragm.
        """
        v, u = np.asarray(across, dtype=np.float64), np.asarray(along, dtype=np.float64)
        bottom = self.lung_height
        x = np.zeros(np.broadcast(u, v).shape)
        y = np.broadcast_to(u * bottom, x.shape).copy()
        for _ in range(3):  # the diaphragm depends on x, and x depends on y
            inner = np.maximum(at(self.mediastinum[side], y), at(self.medial, y))
            x = side * (inner + v * (at(self.lateral, y) - inner))
            y = u * np.minimum(at(self.diaphragm, x), bottom + 4.5)
        return np.stack([x, y], axis=-1)


@dataclass(frozen=True)
class Enlargement:
    """Changes of the outlines by findings; `None` keeps the patient's own size."""

    heart_ratio: float | None = None  # cardiothoracic ratio
    knob: float | None = None  # aortic knob in cm
    aorta_right: float = 0.0  # bulge of the ascending aorta to the right in cm


def draw_outlines(patient: Patient, exposure: Exposure, shape: np.random.Generator, enlarged: Enlargement) -> Outlines:
    """Draw the outlines of one image; a shallow breath raises the diaphragm and slightly widens the heart."""
    width, height = patient.half_width, patient.lung_height * exposure.inspiration
    ratio = patient.heart_ratio if enlarged.heart_ratio is None else enlarged.heart_ratio
    total = 2 * width * (ratio * (1 + 0.25 * (1 - exposure.inspiration)))
    heart_right = total * patient.heart_right_share + exposure.yaw
    heart_left = total - heart_right
    knob = patient.knob if enlarged.knob is None else enlarged.knob
    wobble = shape.normal(0, 1, 12)
    knob_y = (0.265 + 0.008 * wobble[0]) * height

    vessels = np.array([2.2, 2.5, 2.5, 2.35, 2.45, 2.5]) + wobble[:6] * (0, 0.15, 0.15, 0.12, 0.12, 0)
    vessels += np.array([0, 0, 0, 0.6, 1.0, 0.8]) * enlarged.aorta_right
    right = smooth_curve(
        [-8.0, *(height * np.array([0, 0.12, 0.22, 0.34, 0.48, 0.58, 0.70, 0.80, 0.92, 1.05, 1.3]))],
        [*vessels, *(heart_right * np.array([0.78, 0.97, 1.02, 0.93, 0.80])), 2.5],
        1.3,
    )
    knob_half = 0.062 * height + 0.35 * max(0.0, knob - 1.0)
    aorta = np.array([2.35, 2.25, 2.3, 2.2, 2.35]) + np.array([0, 0.85, 1.22, 0.8, 0]) * knob
    aorta[[0, 4]] += np.array([0.12, 0.1]) * wobble[5:7]
    aorta[4] += 0.2 * max(0.0, knob - 1.0)
    left = smooth_curve(
        [
            *(-8.0, 0.0),
            *(knob_y + knob_half * np.array([-2.0, -0.85, 0, 0.85, 1.6])),
            *(height * np.array([0.43, 0.52, 0.62, 0.74, 0.85, 0.92, 0.99, 1.06, 1.25])),
        ],
        [
            *(2.1, 2.5),
            *aorta,
            *(2.95 + 0.2 * wobble[7], 0.45 * heart_left + 0.55),
            *(heart_left * np.array([0.66, 0.86, 0.99, 1.02, 0.97, 0.82])),
            2.5,
        ],
        1.0,
    )
    lateral, medial = _lung_borders(width, height)
    diaphragm = _diaphragm(width, height, wobble, exposure)
    return Outlines(
        lung_height=height,
        half_width=width,
        lateral=lateral,
        medial=medial,
        mediastinum={RIGHT: right, LEFT: left},
        diaphragm=diaphragm,
        diaphragm_softness=np.full_like(diaphragm, 0.22),
        heart_right=heart_right,
        heart_left=heart_left,
        knob_y=knob_y,
        knob_x=2.3 + 1.22 * knob,
    )


def _lung_borders(width: float, height: float) -> tuple[FloatArray, FloatArray]:
    u = table_axis() / height
    body = np.interp(
        u,
        [0.03, 0.08, 0.15, 0.3, 0.5, 0.7, 0.9, 1.15, 1.5],
        [0.53, 0.635, 0.735, 0.865, 0.955, 1.0, 1.005, 0.98, 0.95],
    )
    apex = 0.36 + 0.17 * np.sqrt(np.clip(u / 0.03, 0, 1))
    lateral = np.where(u < 0.03, apex, body) * width
    half = 60
    lateral = np.convolve(np.pad(lateral, half, mode="edge"), np.hanning(2 * half + 3)[1:-1] / (half + 1), "valid")
    lateral = np.where(u < 0.02, np.minimum(lateral, apex * width + 0.2), lateral)
    inner = np.interp(u, [0.04, 0.1, 0.2, 0.35, 1.0], [0.21, 0.175, 0.15, 0.13, 0.12])
    medial = np.where(u < 0.04, 0.36 - 0.15 * np.sqrt(np.clip(u / 0.04, 0, 1)), inner) * width
    return lateral.astype(np.float32), medial.astype(np.float32)


def _diaphragm(width: float, height: float, wobble: npt.NDArray[np.float64], exposure: Exposure) -> FloatArray:
    """Two domes: each falls to its costophrenic angle laterally, and to the heart medially."""
    axis = table_axis()
    side_x = np.abs(axis)
    dome_left = height + 0.9 + 0.35 * wobble[8]
    steep = (4.6 + 0.5 * wobble[9]) * (0.7 + 0.3 * exposure.inspiration)
    centre = np.where(axis < 0, 0.47 * width, 0.50 * width)
    top = np.where(axis < 0, height, dome_left)
    reach = (side_x - centre) / (width - centre)
    floor = top + np.where(reach > 0, steep * np.abs(reach) ** 2.3, 1.3 * np.abs(reach * 1.15) ** 2)
    blend = np.clip((axis + 1.5) / 3.0, 0, 1)
    middle = (1 - blend) * (height + 1.0) + blend * (dome_left + 1.0)
    return np.where(side_x < 1.5, middle, floor).astype(np.float32)


@dataclass
class Chest:
    """Layers of one image, which findings and mimics may change before they are summed."""

    canvas: Canvas
    patient: Patient
    outlines: Outlines
    lung: FloatArray  # visible lung, 0 to 1
    air: FloatArray  # attenuation removed by the air in the lungs
    vessels: FloatArray  # attenuation of the lung markings
    coarse: Canvas  # half the resolution, for structures without fine detail
    smooth: npt.NDArray[
        np.floating[Any]
    ]  # attenuation of trunk, spine, mediastinum, breasts and gut on the coarse canvas
    extra: FloatArray = field(init=False)  # everything else that is added

    def __post_init__(self) -> None:
        self.extra = np.zeros_like(self.lung)


def trunk(
    canvas: Canvas, patient: Patient, outlines: Outlines, shape: np.random.Generator
) -> npt.NDArray[np.floating[Any]]:
    """Attenuation of trunk, shoulders, arms and neck without air, of shape (height, width)."""
    chest, height, depth = patient.half_width + patient.wall, outlines.lung_height, patient.depth
    axilla = 0.30 * height + shape.uniform(-0.8, 1.2)
    side = np.abs(canvas.x)
    edge = canvas.by_y(
        smooth_curve(
            [-30, -9, -6, -4, -2.5, -1, 1.5, axilla, *(height * np.array([0.6, 1.0, 1.4, 2.2]))],
            [
                *(6.5, 5.4, 5.6, 7.0, 11.0, 15.0, chest + 2.5, chest + 0.8, chest, chest - 0.3),
                *(chest - 1.0 + 0.6 * shape.normal(), chest),
            ],
            2.2,
        )
    )
    depths = smooth_curve(
        [-30, -6, -2, 2, *(height * np.array([0.3, 0.8, 1.1, 2]))],
        [13.0, 11.5, 12.5, *(depth * np.array([0.72, 0.93, 1, 1.02, 0.97]))],
        3.0,
    )
    thickness = canvas.by_y(depths) * (1 - np.minimum(side / edge, 1.0) ** 4) ** np.float32(0.42)

    # Shoulders and arms are outside the trunk.
    shoulder_top = smooth_curve(
        [0, 5, 7, 10, 14, 17, 19.5, 22, 24, 30], [-9, -7, -4.2, -2.7, -1.3, -0.2, 1.3, 4, 9, 40], 1.5
    )
    spread = shape.uniform(1.6, 3.2)
    below = (axilla + spread * (side - chest)) - canvas.y
    arm = np.minimum(ramp(canvas.y - at(shoulder_top, side) - 0.2, 1.4), ramp(below, 2.2))
    arm *= ramp(24.5 + 0.12 * canvas.y - side, 2.0)
    thickness = np.maximum(thickness, arm * np.minimum(9.5, 4.0 + 0.55 * depth * 0.6))
    # Fat, muscle and gut are not homogeneous.
    thickness *= 1 + np.float32(0.022) * canvas.noise(shape, 3.2)
    attenuation: npt.NDArray[np.floating[Any]] = thickness * np.float32(SOFT_PER_CM)
    return attenuation


def lungs(canvas: Canvas, patient: Patient, outlines: Outlines) -> tuple[FloatArray, FloatArray]:
    """Return (lung, air): visible lung, 0 to 1, and the attenuation removed by its air."""
    reach, height = patient.half_width + 1.0, outlines.lung_height
    window = canvas.window([(x, y) for x in (-reach, reach) for y in (-0.6, 1.75 * height)])
    whole, canvas = canvas, canvas.part(*window)
    side = np.abs(canvas.x)
    lateral, inner = canvas.by_y(outlines.lateral), canvas.by_y(outlines.medial)
    across = np.clip(side / lateral, 0, 1)
    rounded = np.sqrt(1 - across**5)
    mask = ramp(side - inner, 0.5) * ramp(lateral - side, 0.18)
    mask *= ramp(canvas.y - 0.02, 0.5)
    floor = canvas.by_x(outlines.diaphragm) - canvas.y
    open_air = np.clip(floor / canvas.by_x(outlines.diaphragm_softness) + 0.5, 0, 1)
    open_air *= open_air * (3 - 2 * open_air)
    # Behind the dome the lung reaches further down and shows as a darker rim of the abdomen.
    recess = np.float32(0.16) * np.exp(np.minimum(floor, 0) * np.float32(1 / 2.2)) * (1 - open_air)

    border = np.where(canvas.x < 0, *(canvas.by_y(outlines.mediastinum[side]) for side in (RIGHT, LEFT)))
    beyond = side - border
    clear = ramp(beyond, 0.28)
    # Heart and great vessels displace the lung; the lung behind them still shows a little.
    behind = np.float32(0.45) * ramp(beyond + 1.4, 3.6)
    clear = clear + (1 - clear) * behind

    depth = np.float32(0.70 * patient.depth) * (np.float32(0.42) + np.float32(0.58) * ramp(canvas.y - 3.8, 9.0))
    visible, air = np.zeros((2, *whole.x.shape), dtype=np.float32)
    mask *= clear
    visible[window] = mask * open_air
    mask *= rounded * depth
    air[window] = mask * (open_air + recess) * np.float32(SOFT_PER_CM * AIR_SHARE)
    return visible, air


def mediastinum(canvas: Canvas, patient: Patient, exposure: Exposure, outlines: Outlines) -> FloatArray:
    """Attenuation of airways (negative), hila and heart on top of the trunk."""
    height = outlines.lung_height
    carina = 0.285 * height
    centre = smooth_curve([-20, 0, carina], [0, 0.1, 0.35 + 0.5 * exposure.yaw], 2.0)
    tube = 1 - ((canvas.x - canvas.by_y(centre)) / np.float32(0.85 + 0.15 * (not patient.female))) ** 2
    out = -np.sqrt(np.clip(tube, 0, 1)) * ramp(carina + 0.6 - canvas.y, 1.6) * np.float32(0.27)
    for side in (RIGHT, LEFT):
        # Main bronchi leave the carina obliquely.
        start, slope = 0.35 + 0.5 * exposure.yaw, 0.75 if side == RIGHT else 1.0
        along = (canvas.x - start) * side
        drop = canvas.y - carina - along * np.float32(1 / slope) * np.float32(0.95)
        pipe = np.sqrt(np.clip(1 - (drop / np.float32(0.75)) ** 2, 0, 1))
        out -= pipe * ramp(along, 0.5) * ramp(1.6 - along, 1.2) * np.float32(0.09)
        hilum = side * (2.9 + 0.2 * exposure.yaw * side), (0.425 if side == RIGHT else 0.385) * height
        out += np.float32(0.36 * patient.vessels) * np.exp(-canvas.ellipse(hilum, 1.25, 2.2))
    heart = 0.5 * (outlines.heart_left - outlines.heart_right), 0.8 * height
    r = canvas.ellipse(heart, 0.62 * (outlines.heart_left + outlines.heart_right), 0.36 * height)
    out += np.float32(0.16) * np.exp(-r)
    return np.asarray(out, dtype=np.float32)
