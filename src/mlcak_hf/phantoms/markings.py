"""Lung markings: vessels and fine texture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .anatomy import LEFT, RIGHT, Outlines
from .canvas import Canvas, FloatArray, Pen, at, circle, enlarge, ramp, soften
from .plan import Patient

Array = npt.NDArray[np.float64]

_LEVELS = 7
_WIDEST_CM = 0.56
_STEPS = 4  # straight pieces of a branch


def _tree(outlines: Outlines, side: int, shape: np.random.Generator) -> list[tuple[Array, Array]]:
    """Vessels of one lung: for each level the branches (n, points, 2) and their widths (n,), in cm."""
    height = outlines.lung_height
    hilum = np.array([side * 2.7, (0.43 if side == RIGHT else 0.39) * height])
    # Main branches fan out from almost straight up to straight down; the lower lobes have more and wider ones.
    count = 11
    fan = np.linspace(-1.25, 1.42, count) + shape.normal(0, 0.10, count)
    start = hilum + np.stack([side * (0.5 * np.cos(fan) - 0.4), 1.3 * np.sin(fan)], axis=1)
    angle = fan.copy()
    width = _WIDEST_CM * shape.uniform(0.6, 1.0, count) * np.where(fan > 0.2, 1.0, 0.8)
    length = 0.17 * height * shape.uniform(0.8, 1.2, count) * np.where(np.abs(fan) > 0.8, 1.15, 0.9)
    levels = []
    for level in range(_LEVELS):
        points = [start]
        direction = angle
        for _ in range(_STEPS):
            direction = direction + shape.normal(0, 0.17, len(direction))
            step = np.stack([side * np.cos(direction), np.sin(direction)], axis=1) * (length / _STEPS)[:, None]
            points.append(points[-1] + step)
        path = np.stack(points, axis=1)  # (n, steps + 1, 2)
        levels.append((path, width))
        if level == _LEVELS - 1:
            break
        # Two daughters at the end, and a thin twig from the middle.
        spread = shape.uniform(0.22, 0.52, len(angle))
        middle = path[:, _STEPS // 2]
        twig = direction + np.where(shape.random(len(angle)) < 0.5, -1, 1) * shape.uniform(0.6, 1.0, len(angle))
        start = np.concatenate([path[:, -1], path[:, -1], middle])
        angle = np.concatenate([direction - spread, direction + spread * 0.8, twig])
        width = np.concatenate([width * shape.uniform(0.68, 0.84, len(width)), width * 0.66, width * 0.45])
        length = np.concatenate([length * 0.78, length * 0.70, length * 0.6]) * shape.uniform(0.8, 1.15, len(angle))
        x, y = start.T
        floor = at(outlines.diaphragm, x) + 2
        keep = (np.abs(x) < at(outlines.lateral, y)) & (y > 0) & (y < floor) & (width > 0.06)
        start, angle, width, length = start[keep], angle[keep], width[keep], length[keep]
    return levels


def lung_markings(
    canvas: Canvas, patient: Patient, outlines: Outlines, lung: FloatArray, shape: np.random.Generator
) -> FloatArray:
    """Attenuation of vessels, which taper from the hila, and of the fine texture between them."""
    trees = [_tree(outlines, side, shape) for side in (RIGHT, LEFT)]
    u, v, w = shape.random((3, 10))
    of_side = [outlines.inside_lung(side, 0.05 + 0.3 * v, 0.3 + 0.4 * w) for side in (RIGHT, LEFT)]
    ends_on = np.where((u < 0.5)[:, None], *of_side)
    radius = 0.16 + 0.12 * np.abs(v - w)

    def paint(pen: Pen) -> None:
        # Thin vessels first, so that they do not cut wide ones where they cross.
        for level in reversed(range(_LEVELS)):
            for tree in trees:
                branches, widths = tree[level]
                for group in np.array_split(np.argsort(widths), 4):
                    if len(group):
                        wide = float(widths[group].mean())
                        pen.line(branches[group], min(1.0, wide / _WIDEST_CM), wide, rounded=False)
        # Vessels seen end-on look like tiny nodules near the hila.
        pen.polygon(ends_on[:, None] + radius[:, None, None] * circle(10), 0.75)

    # Round vessels have soft edges.
    vessels = soften(canvas.draw(paint), 0.045 / canvas.cm_per_px) * np.float32(0.42 * patient.vessels)
    vessels *= np.float32(0.35) + np.float32(0.65) * ramp(0.92 - np.abs(canvas.x) / canvas.by_y(outlines.lateral), 0.7)
    cells = max(2, round(0.32 / canvas.cm_per_px))
    texture = np.zeros_like(lung)
    for size, strength in ((cells, 0.016), (4 * cells, 0.030)):
        noise = shape.standard_normal((canvas.height // size + 2, canvas.width // size + 2), dtype=np.float32)
        texture += np.float32(strength) * enlarge(noise, canvas.height, canvas.width)
    return np.asarray((vessels + texture) * lung, dtype=np.float32)
