"""Outlines of the chest and the attenuation of its soft parts.

The image is a sum of attenuation along each ray, the way radiographs come about: trunk minus air, plus bones, vessels
and whatever a finding adds. All lengths are cm on the detector, attenuation is the natural logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .canvas import Canvas, FloatArray, at, enlarge, ramp, smooth_curve, table_axis
from .plan import Exposure, Patient

#: Effective attenuation of soft tissue per cm at the beam quality of a chest radiograph.
SOFT_PER_CM = 0.155
#: Share of the lung's depth that is air.
AIR_SHARE = 0.74
#: Sides of the body as signs of `x`: the patient's right lung is on the image's left.
RIGHT, LEFT = -1, 1


@dataclass
class Outlines:
    """Curves that bound the organs, tabulated over y (cm below the apex) or over x (cm from the spine)."""

    lung_height: float
    half_width: float
    lateral: FloatArray  # over y: outer lung border
    medial: FloatArray  # over y: inner lung border behind the heart
    mediastinum_right: FloatArray  # over y: border of vessels and heart, positive cm from the midline
    mediastinum_left: FloatArray
    diaphragm: FloatArray  # over x
    diaphragm_softness: FloatArray  # over x: width of the edge
    heart_top: float
    heart_bottom: float
    heart_right: float
    heart_left: float
    knob_y: float
    knob_x: float

    def mediastinum(self, side: int) -> FloatArray:
        """Return the mediastinal border of one side, over y."""
        return self.mediastinum_left if side == LEFT else self.mediastinum_right

    def inside_lung(self, side: int, across: npt.ArrayLike, along: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Map lung coordinates to anatomical points (..., 2).

        Args:
            side: `RIGHT` or `LEFT`.
            across: 0 at the mediastinal border, 1 at the chest wall.
            along: 0 at the apex, 1 at the diaphragm of that place.
        """
        v, u = np.asarray(across, dtype=np.float64), np.asarray(along, dtype=np.float64)
        bottom = self.lung_height
        x = np.zeros(np.broadcast(u, v).shape)
        y = np.broadcast_to(u * bottom, x.shape).copy()
        for _ in range(3):  # the floor depends on x, x on y
            inner = np.maximum(at(self.mediastinum(side), y), at(self.medial, y))
            x = side * (inner + v * (at(self.lateral, y) - inner))
            y = u * np.minimum(at(self.diaphragm, x), bottom + 4.5)
        return np.stack([x, y], axis=-1)


def draw_outlines(
    patient: Patient,
    exposure: Exposure,
    shape: np.random.Generator,
    heart_ratio: float | None = None,
    knob: float | None = None,
    aorta_right: float = 0.0,
) -> Outlines:
    """Lay the outlines of one image out.

    Args:
        patient: Anatomy.
        exposure: Pose; a shallow breath raises the diaphragm and broadens the heart a little.
        shape: Generator for small individual deviations.
        heart_ratio: Cardiothoracic ratio instead of the patient's.
        knob: Aortic knob in cm instead of the patient's.
        aorta_right: Bulge of the ascending aorta to the right in cm.
    """
    width, height = patient.half_width, patient.lung_height * exposure.inspiration
    ratio = (patient.heart_ratio if heart_ratio is None else heart_ratio) * (1 + 0.25 * (1 - exposure.inspiration))
    knob = patient.knob if knob is None else knob
    wobble = shape.normal(0, 1, 12)

    axis = table_axis()
    u = axis / height
    body = np.interp(
        u,
        [0.03, 0.08, 0.15, 0.3, 0.5, 0.7, 0.9, 1.15, 1.5],
        [0.53, 0.635, 0.735, 0.865, 0.955, 1.0, 1.005, 0.98, 0.95],
    )
    apex = 0.36 + 0.17 * np.sqrt(np.clip(u / 0.03, 0, 1))
    lateral = np.where(u < 0.03, apex, body) * width
    half = 60
    lateral = np.convolve(np.pad(lateral, half, mode="edge"), np.hanning(2 * half + 3)[1:-1] / (half + 1), "valid")
    lateral = np.where(u < 0.02, np.minimum(lateral, apex * width + 0.2), lateral).astype(np.float32)
    inner = np.interp(u, [0.04, 0.1, 0.2, 0.35, 1.0], [0.21, 0.175, 0.15, 0.13, 0.12])
    medial = (np.where(u < 0.04, 0.36 - 0.15 * np.sqrt(np.clip(u / 0.04, 0, 1)), inner) * width).astype(np.float32)

    total = 2 * width * ratio
    heart_right = total * patient.heart_right_share + exposure.yaw
    heart_left = total - heart_right
    knob_y = (0.265 + 0.008 * wobble[0]) * height
    right = smooth_curve(
        [
            (-8.0, 2.2),
            (0.0, 2.5 + 0.15 * wobble[1]),
            (0.12 * height, 2.5 + 0.15 * wobble[2]),
            (0.22 * height, 2.35 + 0.12 * wobble[3] + 0.6 * aorta_right),
            (0.34 * height, 2.45 + 0.12 * wobble[4] + aorta_right),
            (0.48 * height, 2.5 + 0.8 * aorta_right),
            (0.58 * height, heart_right * 0.78),
            (0.70 * height, heart_right * 0.97),
            (0.80 * height, heart_right * 1.02),
            (0.92 * height, heart_right * 0.93),
            (1.05 * height, heart_right * 0.80),
            (1.3 * height, 2.5),
        ],
        1.3,
    )
    knob_half = 0.062 * height + 0.35 * max(0.0, knob - 1.0)
    left = smooth_curve(
        [
            (-8.0, 2.1),
            (0.0, 2.5),
            (knob_y - 2.0 * knob_half, 2.35 + 0.12 * wobble[5]),
            (knob_y - 0.85 * knob_half, 2.25 + 0.85 * knob),
            (knob_y, 2.3 + 1.22 * knob),
            (knob_y + 0.85 * knob_half, 2.2 + 0.8 * knob),
            (knob_y + 1.6 * knob_half, 2.35 + 0.1 * wobble[6] + 0.2 * max(0.0, knob - 1.0)),
            (0.43 * height, 2.95 + 0.2 * wobble[7]),
            (0.52 * height, 0.45 * heart_left + 0.55),
            (0.62 * height, heart_left * 0.66),
            (0.74 * height, heart_left * 0.86),
            (0.85 * height, heart_left * 0.99),
            (0.92 * height, heart_left * 1.02),
            (0.99 * height, heart_left * 0.97),
            (1.06 * height, heart_left * 0.82),
            (1.25 * height, 2.5),
        ],
        1.0,
    )

    # Two domes; laterally each falls to its costophrenic angle, medially to the heart's bed.
    dome_left = height + 0.9 + 0.35 * wobble[8]
    dome_right = height
    steep = (4.6 + 0.5 * wobble[9]) * (0.7 + 0.3 * exposure.inspiration)
    centre_right, centre_left = 0.47 * width, 0.50 * width
    side_x = np.abs(axis)
    centre = np.where(axis < 0, centre_right, centre_left)
    top = np.where(axis < 0, dome_right, dome_left)
    reach = (side_x - centre) / (width - centre)
    floor = top + np.where(reach > 0, steep * np.abs(reach) ** 2.3, 1.3 * np.abs(reach * 1.15) ** 2)
    blend = np.clip((axis + 1.5) / 3.0, 0, 1)
    middle = (1 - blend) * (dome_right + 1.0) + blend * (dome_left + 1.0)
    floor = np.where(side_x < 1.5, middle, floor).astype(np.float32)
    softness = np.full_like(floor, 0.22)
    return Outlines(
        lung_height=height,
        half_width=width,
        lateral=lateral,
        medial=medial,
        mediastinum_right=right,
        mediastinum_left=left,
        diaphragm=floor,
        diaphragm_softness=softness,
        heart_top=0.45 * height,
        heart_bottom=1.06 * height,
        heart_right=heart_right,
        heart_left=heart_left,
        knob_y=knob_y,
        knob_x=2.3 + 1.22 * knob,
    )


@dataclass
class Chest:
    """Layers of one image that findings and mimics may change before they are summed."""

    canvas: Canvas
    patient: Patient
    exposure: Exposure
    outlines: Outlines
    lung: FloatArray  # visible lung, 0 to 1
    air: FloatArray  # attenuation that the lungs' air takes away
    vessels: FloatArray  # attenuation of the lung markings
    coarse: Canvas  # half the resolution, for what has no fine detail
    smooth: FloatArray  # attenuation of trunk, spine, mediastinum, breasts and gut on the coarse canvas
    extra: FloatArray = field(init=False)  # everything else that is added

    def __post_init__(self) -> None:
        self.extra = np.zeros_like(self.lung)


def trunk(canvas: Canvas, patient: Patient, outlines: Outlines, shape: np.random.Generator) -> FloatArray:
    """Return the attenuation of trunk, shoulders, arms and neck, without air, of shape (height, width)."""
    width, wall = patient.half_width, patient.wall
    height = outlines.lung_height
    axilla = 0.30 * height + shape.uniform(-0.8, 1.2)
    side = np.abs(canvas.x)
    torso = smooth_curve(
        [
            (-30, 6.5),
            (-9, 5.4),
            (-6, 5.6),
            (-4.0, 7.0),
            (-2.5, 11.0),
            (-1.0, 15.0),
            (1.5, width + wall + 2.5),
            (axilla, width + wall + 0.8),
            (0.6 * height, width + wall),
            (1.0 * height, width + wall - 0.3),
            (1.4 * height, width + wall - 1.0 + 0.6 * shape.normal()),
            (2.2 * height, width + wall),
        ],
        2.2,
    )
    depth = smooth_curve(
        [
            (-30, 13.0),
            (-6, 11.5),
            (-2, 12.5),
            (2, 0.72 * patient.depth),
            (0.3 * height, 0.93 * patient.depth),
            (0.8 * height, patient.depth),
            (1.1 * height, 1.02 * patient.depth),
            (2 * height, 0.97 * patient.depth),
        ],
        3.0,
    )
    edge = canvas.by_y(torso)
    share = np.minimum(side / edge, 1.0)
    thickness = canvas.by_y(depth) * (1 - share**4) ** np.float32(0.42)

    # Shoulders and arms hang outside the trunk.
    shoulder_top = smooth_curve(
        [(0, -9.0), (5, -7), (7, -4.2), (10, -2.7), (14, -1.3), (17, -0.2), (19.5, 1.3), (22, 4.0), (24, 9), (30, 40)],
        1.5,
    )
    spread = shape.uniform(1.6, 3.2)
    above = canvas.y - at(shoulder_top, side)
    below = (axilla + spread * (side - (width + wall))) - canvas.y
    arm = np.minimum(ramp(above - 0.2, 1.4), ramp(below, 2.2))
    arm *= ramp(24.5 + 0.12 * canvas.y - side, 2.0)
    arm_thickness = arm * np.minimum(9.5, 4.0 + 0.55 * patient.depth * 0.6)
    thickness = np.maximum(thickness, arm_thickness)

    # Fat, muscle and gut are not homogeneous.
    cells = 3.2 / canvas.cm_per_px
    coarse = shape.standard_normal((int(canvas.height / cells) + 3, int(canvas.width / cells) + 3), dtype=np.float32)
    thickness *= 1 + np.float32(0.022) * enlarge(coarse, canvas.height, canvas.width)
    out: FloatArray = thickness * np.float32(SOFT_PER_CM)
    return out


def lungs(canvas: Canvas, patient: Patient, outlines: Outlines) -> tuple[FloatArray, FloatArray]:
    """Return (lung, air): where lung is visible, 0 to 1, and the attenuation that its air takes away."""
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
    # Behind the dome the lung reaches further down; it shows as a lighter rim of the abdomen.
    recess = np.float32(0.16) * np.exp(np.minimum(floor, 0) * np.float32(1 / 2.2)) * (1 - open_air)

    border = np.where(canvas.x < 0, canvas.by_y(outlines.mediastinum_right), canvas.by_y(outlines.mediastinum_left))
    beyond = side - border
    clear = ramp(beyond, 0.28)
    # Heart and great vessels push the lung aside; what is behind them still lets some light through.
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
    """Return the attenuation of airways (negative), hilar tissue and the heart's bulk beyond the plain trunk."""
    height = outlines.lung_height
    carina = 0.285 * height
    centre = smooth_curve([(-20, 0.0), (0, 0.1), (carina, 0.35 + 0.5 * exposure.yaw)], 2.0)
    tube = 1 - ((canvas.x - canvas.by_y(centre)) / np.float32(0.85 + 0.15 * (not patient.female))) ** 2
    out = -np.sqrt(np.clip(tube, 0, 1)) * ramp(carina + 0.6 - canvas.y, 1.6) * np.float32(0.27)
    for side in (RIGHT, LEFT):
        # Main bronchi leave the carina obliquely.
        start, slope = 0.35 + 0.5 * exposure.yaw, 0.75 if side == RIGHT else 1.0
        along = (canvas.x - start) * side
        drop = canvas.y - carina - along * np.float32(1 / slope) * np.float32(0.95)
        wide = np.float32(0.75)
        pipe = np.sqrt(np.clip(1 - (drop / wide) ** 2, 0, 1))
        out -= pipe * ramp(along, 0.5) * ramp(1.6 - along, 1.2) * np.float32(0.09)
        # Hilum.
        hilum_x, hilum_y = side * (2.9 + 0.2 * exposure.yaw * side), (0.425 if side == RIGHT else 0.385) * height
        r = ((canvas.x - hilum_x) / np.float32(1.25)) ** 2 + ((canvas.y - hilum_y) / np.float32(2.2)) ** 2
        out += np.float32(0.36 * patient.vessels) * np.exp(-r)
    heart_x = 0.5 * (outlines.heart_left - outlines.heart_right)
    r = ((canvas.x - heart_x) / (0.62 * (outlines.heart_left + outlines.heart_right))) ** 2
    r = r + ((canvas.y - 0.8 * height) / (0.36 * height)) ** 2
    out += np.float32(0.16) * np.exp(-r)
    result: FloatArray = out.astype(np.float32, copy=False)
    return result
