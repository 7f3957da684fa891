"""Normal structures that look like a finding, drawn on normal and abnormal images alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .anatomy import LEFT, RIGHT, Chest
from .canvas import Pen, at, bezier, circle, ramp, smooth_curve
from .findings import Finding, PixelBox, random_side


def _disc(chest: Chest, centre: npt.NDArray[np.float64], radius: float, height: float, halo: float) -> None:
    rows, columns = chest.canvas.window(centre, margin=2.2 * radius)
    dx, dy = chest.canvas.x[rows, columns] - centre[0], chest.canvas.y[rows, columns] - centre[1]
    r = np.sqrt(dx**2 + dy**2)
    chest.extra[rows, columns] += np.float32(height) * ramp(radius - r, 0.5 * radius)
    # Air around a protruding nipple shows as a fine dark rim on its outer side.
    chest.extra[rows, columns] -= np.float32(halo) * np.exp(-(((r - 1.25 * radius) / (0.25 * radius)) ** 2))


def add_breasts(chest: Chest, g: np.random.Generator) -> None:
    """Add breast shadows with sharp lower edges."""
    size = chest.patient.breast
    lift, apart, asymmetry = g.uniform(0.62, 0.92), g.uniform(0.56, 0.68), g.uniform(0.9, 1.1, 2)
    if size <= 0:
        return
    canvas, o = chest.coarse, chest.outlines
    for side, scale in zip((RIGHT, LEFT), asymmetry, strict=True):
        cx, cy = side * apart * o.half_width, lift * o.lung_height
        rx, ry = (4.2 + 1.9 * size) * scale, (4.0 + 2.3 * size) * scale
        below = canvas.y > cy
        dx = (canvas.x - cx) / np.float32(rx)
        dy = (canvas.y - cy) / np.where(below, np.float32(0.62 * ry), np.float32(1.5 * ry))
        inside = np.clip(1 - dx**2 - dy**2, 0, 1)
        bulk = np.where(below, inside**0.33, inside**0.75)
        chest.smooth += np.float32(0.155 * (0.4 + 1.7 * size)) * bulk


def add_gas(chest: Chest, g: np.random.Generator) -> None:
    """Add a gastric bubble under the left dome and gas in the colon."""
    o, canvas = chest.outlines, chest.coarse
    u = g.random(8)
    shape = g.standard_normal((5, 4))
    if u[0] < 0.75:
        x0 = (0.42 + 0.14 * u[1]) * o.half_width
        wide, high = 1.6 + 2.4 * u[2], 1.0 + 1.8 * u[3]
        top = float(at(o.diaphragm, x0)) + 0.7
        dx = (canvas.x - x0) / np.float32(wide)
        up = (canvas.y - (top + high)) / np.float32(high)
        dome = np.sqrt(np.clip(1 - dx**2 - up**2, 0, 1)) * (ramp(-up + 0.1, 0.12) if u[4] < 0.6 else 1)
        chest.smooth -= np.float32(0.45 + 0.5 * u[5]) * dome
    if u[6] < 0.5:
        for k in range(int(2 + 3 * u[7])):
            centre = (3.5 + 4.0 * shape[k, 0], o.lung_height + 6.5 + 1.5 * shape[k, 1])
            r = canvas.ellipse(centre, 1.2 + 0.3 * shape[k, 2], 0.9)
            chest.smooth -= np.float32(0.28) * np.sqrt(np.clip(1 - r, 0, 1))


def _nipples(chest: Chest, g: np.random.Generator) -> Finding:
    o = chest.outlines
    both, side = g.random() < 0.65, random_side(g)
    across, along = g.uniform(0.5, 0.72), g.uniform(0.72, 0.9)
    boxes: list[PixelBox] = []
    radius, height = g.uniform(0.35, 0.55), g.uniform(0.12, 0.24)
    for s in (RIGHT, LEFT):
        if both or s == side:
            centre = np.array([s * across * o.half_width * 1.15, along * o.lung_height]) + g.normal(0, 0.3, 2)
            _disc(chest, centre, radius, height, 0.05)
            boxes.append(chest.canvas.box(centre, margin=radius))
    return Finding("Nodule/Mass", tuple(boxes), 0.3)


def _skin_fold(chest: Chest, g: np.random.Generator) -> Finding:
    o, canvas = chest.outlines, chest.canvas
    side = random_side(g)
    top, length = g.uniform(0.05, 0.25) * o.lung_height, g.uniform(0.4, 0.7) * o.lung_height
    x_top, lean = o.half_width * g.uniform(0.62, 0.85), g.uniform(-0.12, 0.12)
    middle, bottom = top + 0.5 * length, top + length + 10
    curve = smooth_curve([top - 10, middle, bottom], [x_top - 10 * lean - 0.8, x_top, x_top - 0.8], 6)
    off = side * canvas.x - canvas.by_y(curve)
    along = ramp(canvas.y - top, 2.0) * ramp(top + length - canvas.y, 3.0)
    fold = ramp(-off, 0.12) * np.exp(np.minimum(off, 0) * np.float32(1 / 0.9))
    chest.extra += np.float32(g.uniform(0.13, 0.22)) * fold * along
    box = canvas.box([(side * (x_top - 1), top), (side * o.half_width, top + length)])
    return Finding("Pneumothorax", (box,), 0.3)


def _leads(chest: Chest, g: np.random.Generator) -> None:
    o, canvas = chest.outlines, chest.canvas
    count = int(g.integers(2, 5))
    spots = np.stack([g.uniform(-0.9, 0.9, count) * o.half_width, g.uniform(0.1, 1.05, count) * o.lung_height], axis=1)
    bends = g.normal(0, 3.0, (count, 2))
    edge = np.stack([np.sign(spots[:, 0]) * 26, g.uniform(-6, 6, count)], axis=1)
    radius = g.uniform(0.4, 0.7)

    def paint(pen: Pen) -> None:
        ring = circle(20)
        for spot, bend, end in zip(spots, bends, edge, strict=True):
            pen.line(bezier(spot, 0.5 * (spot + end) + bend, end, 24), 0.30, 0.12)
            pen.polygon(spot + radius * ring, 0.45)
            pen.polygon(spot + 0.45 * radius * ring, 1.0)

    chest.extra += canvas.draw(paint) * np.float32(0.9)


def _central_line(chest: Chest, g: np.random.Generator) -> None:
    side = RIGHT if g.random() < 0.7 else LEFT
    height = chest.outlines.lung_height
    x, y = (side * 9.0, side * 5.0, side * 2.2, -1.9, -2.0), (-12.0, 0.5, 3.0, 0.25 * height, 0.4 * height)
    points = np.stack([x, y], axis=1)
    points += g.normal(0, 0.35, points.shape)
    t = np.linspace(0, 4, 40)
    path = np.stack([np.interp(t, range(5), points[:, 0]), np.interp(t, range(5), points[:, 1])], axis=1)
    path[2:-2] = sum(path[k : len(path) - 4 + k] for k in range(5)) / 5
    chest.extra += chest.canvas.draw(lambda pen: pen.line(path, 1.0, 0.2)) * np.float32(0.35)


def add_mimics(chest: Chest, g: np.random.Generator) -> tuple[Finding, ...]:
    """Draw mimics, and return those that a reader might take for a finding, under the name of that finding."""
    chance = g.random(4)
    mistaken = [_nipples(chest, g)] if chance[0] < 0.15 else []
    mistaken += [_skin_fold(chest, g)] if chance[1] < 0.12 else []
    if chance[2] < 0.12:
        _leads(chest, g)
    if chance[3] < 0.05:
        _central_line(chest, g)
    return tuple(mistaken)
