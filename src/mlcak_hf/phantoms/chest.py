"""Outlines of the chest, and the attenuation of its soft tissue.

The image is a sum of attenuation along each ray, as in a radiograph: trunk minus air, plus bones, vessels and whatever
a finding adds. Lengths are cm on the detector; attenuation is the natural logarithm of the transmission, negated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .canvas import TABLE_AXIS, Array, Canvas, at, ramp, smooth_curve
from .plan import Exposure

#: Effective attenuation of soft tissue per cm at the beam quality of a chest radiograph.
SOFT_PER_CM = 0.155
#: Share of the lung's depth that is air.
AIR_SHARE = 0.74
#: Sides of the body as signs of `x`: the patient's right lung is on the left of the image.
RIGHT, LEFT = -1, 1
#: Returns the random generator of a choice by its name.
Streams = Callable[[str], np.random.Generator]


def random_side(g: np.random.Generator) -> int:
    """`RIGHT` or `LEFT`."""
    return RIGHT if g.random() < 0.5 else LEFT


class Chest:
    """Outlines and layers of one image, which findings and mimics change before the layers are summed.

    A shallow breath raises the diaphragm and slightly widens the heart. Borders are tabulated over y (cm below the
    apex) in cm from the midline, the diaphragm over x (cm from the spine).

    Args:
        exposure (`Exposure`):
            The patient, with pose and field of view.
        findings (`Sequence[str]`):
            Findings of the image. Some of them change outlines.
        streams (`Callable`):
            Returns the random generator of a choice by its name.
    """

    def __init__(self, exposure: Exposure, findings: Sequence[str], streams: Streams) -> None:
        patient = self.patient = exposure.patient
        self.exposure = exposure
        self.canvas = Canvas(exposure)
        self.coarse = Canvas(exposure, coarser=2)  # half the resolution, for structures without fine detail
        self.half_width, self.height = patient.half_width, patient.lung_height * exposure.inspiration
        heart_ratio, knob, bulge = patient.heart_ratio, patient.knob, 0.0
        if "Cardiomegaly" in findings:
            heart_ratio = streams("Cardiomegaly").uniform(0.56, 0.68)
        if "Aortic enlargement" in findings:
            g = streams("Aortic enlargement")
            knob, bulge = g.uniform(1.75, 2.8), g.uniform(0.3, 1.3)
        total = 2 * self.half_width * (heart_ratio * (1 + 0.25 * (1 - exposure.inspiration)))
        self.heart_right = total * patient.heart_right_share + exposure.yaw
        self.heart_left = total - self.heart_right
        wobble = streams("shape").normal(0, 1, 12)
        self.knob_x, self.knob_y = 2.3 + 1.22 * knob, (0.265 + 0.008 * wobble[0]) * self.height
        self.mediastinum = {RIGHT: self._right_border(bulge, wobble), LEFT: self._left_border(knob, wobble)}
        self.lateral, self.medial = self._lung_borders()
        self.diaphragm = self._diaphragm(wobble)
        self.diaphragm_softness = np.full_like(self.diaphragm, 0.22)  # width of the edge
        self.fluid: list[tuple[int, float]] = []  # side, and level of the meniscus at the chest wall in cm
        if "Pleural effusion" in findings:
            self._pour_effusion(streams("Pleural effusion"))
        self.lung, self.air = self._fill_lungs()
        self.vessels: Array = np.zeros_like(self.lung)  # attenuation of the lung markings
        # Attenuation that is added: structures without fine detail on the coarse canvas, and all others.
        self.smooth: Array = np.zeros(self.coarse.x.shape)
        self.extra: Array = np.zeros_like(self.lung)

    def _right_border(self, aorta_right: float, wobble: Array) -> Array:
        vessels = np.array([2.2, 2.5, 2.5, 2.35, 2.45, 2.5]) + wobble[:6] * (0, 0.15, 0.15, 0.12, 0.12, 0)
        vessels += np.array([0, 0, 0, 0.6, 1.0, 0.8]) * aorta_right
        y = self.height * np.array([0, 0.12, 0.22, 0.34, 0.48, 0.58, 0.70, 0.80, 0.92, 1.05, 1.3])
        heart = self.heart_right * np.array([0.78, 0.97, 1.02, 0.93, 0.80])
        return smooth_curve([-8.0, *y], [*vessels, *heart, 2.5], 1.3)

    def _left_border(self, knob: float, wobble: Array) -> Array:
        knob_half = 0.062 * self.height + 0.35 * max(0.0, knob - 1.0)
        aorta = np.array([2.35, 2.25, 2.3, 2.2, 2.35]) + np.array([0, 0.85, 1.22, 0.8, 0]) * knob
        aorta[[0, 4]] += np.array([0.12, 0.1]) * wobble[5:7]
        aorta[4] += 0.2 * max(0.0, knob - 1.0)
        waist = 2.95 + 0.2 * wobble[7], 0.45 * self.heart_left + 0.55
        heart = self.heart_left * np.array([0.66, 0.86, 0.99, 1.02, 0.97, 0.82])
        knob_y = self.knob_y + knob_half * np.array([-2.0, -0.85, 0, 0.85, 1.6])
        below_y = self.height * np.array([0.43, 0.52, 0.62, 0.74, 0.85, 0.92, 0.99, 1.06, 1.25])
        return smooth_curve([-8.0, 0.0, *knob_y, *below_y], [2.1, 2.5, *aorta, *waist, *heart, 2.5], 1.0)

    def _lung_borders(self) -> tuple[Array, Array]:
        """Outer border, and inner border behind the heart."""
        u = TABLE_AXIS / self.height
        knots = [0.03, 0.08, 0.15, 0.3, 0.5, 0.7, 0.9, 1.15, 1.5]
        body = np.interp(u, knots, [0.53, 0.635, 0.735, 0.865, 0.955, 1.0, 1.005, 0.98, 0.95])
        apex = 0.36 + 0.17 * np.sqrt(np.clip(u / 0.03, 0, 1))
        lateral = np.where(u < 0.03, apex, body) * self.half_width
        half = 60
        lateral = np.convolve(np.pad(lateral, half, mode="edge"), np.hanning(2 * half + 3)[1:-1] / (half + 1), "valid")
        lateral = np.where(u < 0.02, np.minimum(lateral, apex * self.half_width + 0.2), lateral)
        inner = np.interp(u, [0.04, 0.1, 0.2, 0.35, 1.0], [0.21, 0.175, 0.15, 0.13, 0.12])
        medial = np.where(u < 0.04, 0.36 - 0.15 * np.sqrt(np.clip(u / 0.04, 0, 1)), inner) * self.half_width
        return lateral.astype(np.float32), medial.astype(np.float32)

    def _diaphragm(self, wobble: Array) -> Array:
        """Two domes: each falls to its costophrenic angle laterally, and to the heart medially."""
        width, height, side_x = self.half_width, self.height, np.abs(TABLE_AXIS)
        dome_left = height + 0.9 + 0.35 * wobble[8]
        steep = (4.6 + 0.5 * wobble[9]) * (0.7 + 0.3 * self.exposure.inspiration)
        centre = np.where(TABLE_AXIS < 0, 0.47 * width, 0.50 * width)
        top = np.where(TABLE_AXIS < 0, height, dome_left)
        reach = (side_x - centre) / (width - centre)
        floor = top + np.where(reach > 0, steep * np.abs(reach) ** 2.3, 1.3 * np.abs(reach * 1.15) ** 2)
        blend = np.clip((TABLE_AXIS + 1.5) / 3.0, 0, 1)
        middle = (1 - blend) * (height + 1.0) + blend * (dome_left + 1.0)
        return np.where(side_x < 1.5, middle, floor).astype(np.float32)

    def _pour_effusion(self, g: np.random.Generator) -> None:
        for side in (RIGHT, LEFT) if g.random() < 0.3 else (random_side(g),):
            depth = g.uniform(0.6, 1.0) + g.exponential(2.2)
            rise = g.uniform(2.5, 5.0)
            level = self.height - min(depth, 0.5 * self.height)
            # The meniscus is lowest near the heart and climbs steeply along the chest wall.
            reach = (side * TABLE_AXIS - 0.3 * self.half_width) / (0.7 * self.half_width)
            climb = np.where(reach > 0, np.abs(reach) ** 2.6, 0.5 * np.abs(reach) ** 1.5)
            surface = (level - rise * np.minimum(climb, 1.3)).astype(np.float32)
            wet = (side * TABLE_AXIS > 0) & (surface < self.diaphragm)
            self.diaphragm[wet], self.diaphragm_softness[wet] = surface[wet], 1.4
            self.fluid.append((side, level - rise))

    def inside_lung(self, side: int, across: npt.ArrayLike, along: npt.ArrayLike) -> Array:
        """Map lung coordinates to anatomical points (..., 2).

        Args:
            side (`int`):
                `RIGHT` or `LEFT`.
            across (array):
                0 at the mediastinal border, 1 at the chest wall.
            along (array):
                0 at the apex, 1 at the diaphragm.
        """
        v, u = np.broadcast_arrays(np.asarray(across, np.float64), np.asarray(along, np.float64))
        y = u * self.height
        for _ in range(3):  # the diaphragm depends on x, and x depends on y
            inner = np.maximum(at(self.mediastinum[side], y), at(self.medial, y))
            x = side * (inner + v * (at(self.lateral, y) - inner))
            y = u * np.minimum(at(self.diaphragm, x), self.height + 4.5)
        return np.stack([x, y], axis=-1)

    def _fill_lungs(self) -> tuple[Array, Array]:
        """Visible lung, 0 to 1, and the attenuation that its air removes."""
        reach = self.half_width + 1.0
        corners = [(x, y) for x in (-reach, reach) for y in (-0.6, 1.75 * self.height)]
        window, canvas = self.canvas.around(corners)
        side = np.abs(canvas.x)
        lateral, inner = canvas.by_y(self.lateral), canvas.by_y(self.medial)
        rounded = np.sqrt(1 - np.clip(side / lateral, 0, 1) ** 5)
        mask = ramp(side - inner, 0.5) * ramp(lateral - side, 0.18) * ramp(canvas.y - 0.02, 0.5)
        floor = canvas.by_x(self.diaphragm) - canvas.y
        open_air = np.clip(floor / canvas.by_x(self.diaphragm_softness) + 0.5, 0, 1)
        open_air *= open_air * (3 - 2 * open_air)
        # Behind the dome the lung reaches further down and shows as a darker rim of the abdomen.
        recess = 0.16 * np.exp(np.minimum(floor, 0) * (1 / 2.2)) * (1 - open_air)

        beyond = side - np.where(canvas.x < 0, *(canvas.by_y(self.mediastinum[side]) for side in (RIGHT, LEFT)))
        clear = ramp(beyond, 0.28)
        # Heart and great vessels displace the lung; the lung behind them still shows a little.
        clear = clear + (1 - clear) * (0.45 * ramp(beyond + 1.4, 3.6))

        depth = (0.70 * self.patient.depth) * (0.42 + 0.58 * ramp(canvas.y - 3.8, 9.0))
        lung, air = np.zeros((2, *self.canvas.x.shape), dtype=np.float32)
        mask *= clear
        lung[window] = mask * open_air
        mask *= rounded * depth
        air[window] = mask * (open_air + recess) * (SOFT_PER_CM * AIR_SHARE)
        return lung, air


def add_trunk(chest: Chest, g: np.random.Generator) -> None:
    """Add trunk, shoulders, arms and neck without air."""
    canvas, wall, depth = chest.coarse, chest.half_width + chest.patient.wall, chest.patient.depth
    axilla = 0.30 * chest.height + g.uniform(-0.8, 1.2)
    side = np.abs(canvas.x)
    y = [-30, -9, -6, -4, -2.5, -1, 1.5, axilla, *(chest.height * np.array([0.6, 1.0, 1.4, 2.2]))]
    edges = [6.5, 5.4, 5.6, 7.0, 11.0, 15.0, wall + 2.5, wall + 0.8, wall, wall - 0.3]
    edge = canvas.by_y(smooth_curve(y, [*edges, wall - 1.0 + 0.6 * g.normal(), wall], 2.2))
    y = [-30, -6, -2, 2, *(chest.height * np.array([0.3, 0.8, 1.1, 2]))]
    depths = smooth_curve(y, [13.0, 11.5, 12.5, *(depth * np.array([0.72, 0.93, 1, 1.02, 0.97]))], 3.0)
    thickness = canvas.by_y(depths) * (1 - np.minimum(side / edge, 1.0) ** 4) ** 0.42

    # Shoulders and arms are outside the trunk.
    x, y = [0, 5, 7, 10, 14, 17, 19.5, 22, 24, 30], [-9, -7, -4.2, -2.7, -1.3, -0.2, 1.3, 4, 9, 40]
    shoulder = canvas.y - at(smooth_curve(x, y, 1.5), side) - 0.2
    below = (axilla + g.uniform(1.6, 3.2) * (side - wall)) - canvas.y
    arm = np.minimum(ramp(shoulder, 1.4), ramp(below, 2.2)) * ramp(24.5 + 0.12 * canvas.y - side, 2.0)
    thickness = np.maximum(thickness, arm.astype(np.float64) * min(9.5, 4.0 + 0.55 * depth * 0.6))
    # Fat, muscle and gut are not homogeneous.
    chest.smooth += thickness * (1 + 0.022 * canvas.noise(g, 3.2)) * np.float32(SOFT_PER_CM)


def add_mediastinum(chest: Chest) -> None:
    """Add airways (negative), hila and heart on top of the trunk."""
    canvas, height, patient, yaw = chest.coarse, chest.height, chest.patient, chest.exposure.yaw
    carina, start = 0.285 * height, 0.35 + 0.5 * yaw
    centre = canvas.by_y(smooth_curve([-20, 0, carina], [0, 0.1, start], 2.0))
    tube = 1 - ((canvas.x - centre) / (0.85 + 0.15 * (not patient.female))) ** 2
    out = -np.sqrt(np.clip(tube, 0, 1)) * ramp(carina + 0.6 - canvas.y, 1.6) * 0.27
    for side, slope, hilum_y in ((RIGHT, 0.75, 0.425), (LEFT, 1.0, 0.385)):
        # Main bronchi leave the carina obliquely.
        along = (canvas.x - start) * side
        drop = canvas.y - carina - along * (1 / slope) * 0.95
        pipe = np.sqrt(np.clip(1 - (drop / 0.75) ** 2, 0, 1))
        out -= pipe * ramp(along, 0.5) * ramp(1.6 - along, 1.2) * 0.09
        hilum = side * (2.9 + 0.2 * yaw * side), hilum_y * height
        out += 0.36 * patient.vessels * np.exp(-canvas.ellipse(hilum, 1.25, 2.2))
    heart = 0.5 * (chest.heart_left - chest.heart_right), 0.8 * height
    out += 0.16 * np.exp(-canvas.ellipse(heart, 0.62 * (chest.heart_left + chest.heart_right), 0.36 * height))
    chest.smooth += out


def add_breasts(chest: Chest, g: np.random.Generator) -> None:
    """Add breast shadows with sharp lower edges."""
    size, canvas = chest.patient.breast, chest.coarse
    if not size:
        return
    lift, apart = g.uniform(0.62, 0.92), g.uniform(0.56, 0.68)
    for side, scale in zip((RIGHT, LEFT), g.uniform(0.9, 1.1, 2).tolist(), strict=True):
        below = canvas.y > lift * chest.height
        dx = (canvas.x - side * apart * chest.half_width) / ((4.2 + 1.9 * size) * scale)
        ry = (4.0 + 2.3 * size) * scale
        dy = (canvas.y - lift * chest.height) / np.where(below, np.float32(0.62 * ry), np.float32(1.5 * ry))
        inside = np.clip(1 - dx**2 - dy**2, 0, 1)
        chest.smooth += (0.155 * (0.4 + 1.7 * size)) * np.where(below, inside**0.33, inside**0.75)


def add_gas(chest: Chest, g: np.random.Generator) -> None:
    """Add a gastric bubble under the left dome and gas in the colon."""
    canvas, u, shape = chest.coarse, g.random(8), g.standard_normal((5, 4))
    if u[0] < 0.75:
        x0, wide, high = (0.42 + 0.14 * u[1]) * chest.half_width, 1.6 + 2.4 * u[2], 1.0 + 1.8 * u[3]
        top = float(at(chest.diaphragm, x0)) + 0.7
        across, up = (canvas.x - x0) / np.float32(wide), (canvas.y - (top + high)) / np.float32(high)
        dome = np.sqrt(np.clip(1 - across**2 - up**2, 0, 1))
        chest.smooth -= np.float32(0.45 + 0.5 * u[5]) * (dome * ramp(-up + 0.1, 0.12) if u[4] < 0.6 else dome)
    if u[6] < 0.5:
        for x, y, wide, _ in shape[: int(2 + 3 * u[7])]:
            centre = 3.5 + 4.0 * x, chest.height + 6.5 + 1.5 * y
            r = canvas.ellipse(centre, 1.2 + 0.3 * wide, 0.9)
            chest.smooth -= np.float32(0.28) * np.sqrt(np.clip(1 - r, 0, 1))
