"""Findings and their mimics: how each changes outlines, markings or attenuation, and its boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .canvas import Mask, Pen, PixelBox, at, bezier, circle, ramp, smooth_curve
from .chest import LEFT, RIGHT, Chest, Streams, random_side

_Draw = Callable[[Chest, np.random.Generator], "Finding | None"]


@dataclass(frozen=True)
class Finding:
    """A finding as drawn, or a mimic under the name of the finding that it resembles.

    Args:
        name (`str`):
            VinDr-CXR name.
        boxes (`tuple`):
            (x_min, y_min, x_max, y_max) in pixels, one per lesion.
        conspicuity (`float`):
            From 0 (barely visible) to 1 (obvious); readers miss subtle findings more often.
    """

    name: str
    boxes: tuple[PixelBox, ...]
    conspicuity: float


def _box_around(mask: Mask) -> PixelBox:
    rows, columns = np.nonzero(mask)
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def _nodules(chest: Chest, g: np.random.Generator) -> Finding:
    boxes, best = [], 0.0
    for _ in range(g.choice([1, 2, 3], p=[0.55, 0.3, 0.15])):
        centre = chest.inside_lung(random_side(g), g.uniform(0.2, 0.88), g.uniform(0.12, 0.86))
        mass = g.random() < 0.08
        diameter = g.uniform(2.0, 3.2) if mass else g.uniform(0.75, 1.35)
        peak = g.uniform(0.35, 0.5) if mass else g.uniform(0.5, 0.85)
        lobes, turn, rough = g.integers(2, 6), g.uniform(0, 6.3), g.uniform(0.02, 0.09)
        window, near = chest.canvas.around(centre, margin=diameter)
        dx, dy = near.x - centre[0], near.y - centre[1]
        radius = 0.5 * diameter * (1 + rough * np.cos(lobes * np.arctan2(dy, dx) + turn))
        inside = np.clip(1 - (dx**2 + dy**2) / radius**2, 0, 1)
        chest.extra[window] += np.float32(peak) * np.sqrt(inside).astype(np.float32)
        boxes.append(chest.canvas.box(centre, margin=0.5 * diameter * 1.1))
        best = max(best, peak * diameter)
    return Finding("Nodule/Mass", tuple(boxes), float(np.clip(best, 0.2, 1)))


def _pneumothorax(chest: Chest, g: np.random.Generator) -> Finding:
    canvas, side = chest.canvas, random_side(g)
    end = chest.height * g.uniform(0.55, 0.9)
    down, inward = g.uniform(1.2, 3.0), g.uniform(1.3, 2.6)
    # Border of the collapsed lung: the apex moves down and the lateral border inwards, less so towards `end`.
    y_in, y_out = np.linspace(0.25 * end, 0.0, 16)[:-1], np.linspace(0.0, end, 40)
    y = np.concatenate([y_in, y_out])
    x = np.concatenate([at(chest.medial, y_in) + 0.3, at(chest.lateral, y_out)]).astype(np.float64)
    fade = np.clip(1 - y / end, 0, 1)
    weight = np.concatenate([np.linspace(0.0, 0.4, len(y_in)), np.linspace(0.4, 1.0, 12), np.ones(len(y_out) - 12)])
    path = np.stack([side * (x - inward * fade**0.7 * weight), y + down * fade], axis=1)
    closed = [*path, (side * 40.0, end), (side * 40.0, 80.0), (0.0, 80.0), (0.0, path[0, 1])]
    beyond = (1 - Pen(canvas).polygon(closed, 1.0).layer()) * ramp(side * canvas.x - 0.5, 0.5) * (canvas.y < end)
    beyond *= chest.lung
    lost = chest.vessels * beyond
    chest.vessels -= lost
    # The attenuation of the lost markings is added back, so that the mean brightness does not change.
    chest.extra += beyond * np.float32(lost.sum() / max(float(beyond.sum()), 1.0))
    strength = g.uniform(0.28, 0.48)
    chest.extra += Pen(canvas).line(path, 1.0, 0.19).layer() * np.maximum(chest.lung, beyond) * strength
    first = len(y_in)  # where the border reaches the apex
    wall = side * float(at(chest.lateral, end)), end
    box = canvas.box([*path[first - 4 :], wall, (path[first, 0], 0.2)])
    return Finding("Pneumothorax", (box,), float(np.clip((strength - 0.2) * 3.6, 0.2, 1)))


def _fibrosis(chest: Chest, g: np.random.Generator) -> Finding:
    canvas = chest.canvas
    sides = [RIGHT, LEFT] if g.random() < 0.7 else [random_side(g)]
    net = np.exp(-((canvas.noise(g, 0.60) / 0.30) ** 2))
    net += 0.6 * np.exp(-((canvas.noise(g, 0.85) / 0.26) ** 2))
    strength, boxes = np.float32(g.uniform(0.24, 0.42)), []
    for side in sides:
        centre = chest.inside_lung(side, g.uniform(0.5, 0.75), g.uniform(0.6, 0.85))
        rx, ry = g.uniform(2.8, 4.2), g.uniform(3.2, 5.5)
        mask = ramp(1 - np.sqrt(canvas.ellipse(centre, rx, ry)), 0.5) * chest.lung
        share = float((net * mask).sum() / max(float(mask.sum()), 1.0))
        chest.extra += strength * mask * (net - np.float32(share))
        if (mask > 0.25).any():
            boxes.append(_box_around(mask > 0.25))
    return Finding("Pulmonary fibrosis", tuple(boxes), float(np.clip((strength - 0.2) * 4, 0.2, 1)))


def _consolidation(chest: Chest, g: np.random.Generator) -> Finding:
    canvas, side = chest.canvas, random_side(g)
    centre = chest.inside_lung(side, g.uniform(0.3, 0.65), g.uniform(0.3, 0.8))
    rx, ry = g.uniform(2.8, 4.6), g.uniform(2.8, 5.2)
    r = np.sqrt(canvas.ellipse(centre, rx, ry))
    patchy = canvas.noise(g, 1.3)
    mask = ramp(1 - r + np.float32(0.20) * patchy, 0.9) * ramp(1.5 - r, 0.6) * (side * canvas.x > 0)
    opacity = g.uniform(0.42, 0.75)
    chest.extra += np.float32(opacity) * mask * chest.air * (1 + np.float32(0.10) * patchy)
    hilum, pen = np.array([side * 3.0, 0.42 * chest.height]), Pen(canvas)
    for spread in g.normal(0, 0.5, (3, 4)):
        tip = centre + spread[:2] * (rx, ry) * 0.9
        pen.line(bezier(hilum, 0.5 * (hilum + tip) + spread[2:], tip, 12), 1.0, 0.22)
    # Air-filled bronchi stay dark in the consolidated lung.
    chest.extra -= pen.layer() * mask * np.float32(0.16)
    chest.vessels *= 1 - np.float32(0.75) * mask
    visible = mask * chest.lung > 0.3
    box = _box_around(visible if visible.any() else mask > 0.3)
    return Finding("Consolidation", (box,), opacity)


#: Findings that are drawn on the layers, in this order; the others change outlines.
_DRAW = {
    "Consolidation": _consolidation,
    "Pneumothorax": _pneumothorax,
    "Pulmonary fibrosis": _fibrosis,
    "Nodule/Mass": _nodules,
}


def add_findings(chest: Chest, findings: Sequence[str], streams: Streams) -> tuple[Finding, ...]:
    """Draw findings on the layers of a chest, which change in place, and return all of them by name."""
    height, width, box = chest.height, chest.half_width, chest.canvas.box
    heart = [(-chest.heart_right, 0.45 * height), (chest.heart_left, 1.02 * height)]
    aorta = [(-0.8, chest.knob_y - 0.10 * height), (chest.knob_x, chest.knob_y + 0.10 * height)]
    fluid = [[(side * 0.3 * width, level), (side * width, height + 4.0)] for side, level in chest.fluid]
    outlined = (
        Finding("Aortic enlargement", (box(aorta, margin=0.3),), 0.6),
        Finding("Cardiomegaly", (box(heart),), 0.8),
        Finding("Pleural effusion", tuple(map(box, fluid)), 0.8),
    )
    drawn = [draw(chest, streams(name)) for name, draw in _DRAW.items() if name in findings]
    drawn += [finding for finding in outlined if finding.name in findings]
    return tuple(sorted(drawn, key=lambda finding: finding.name))


def _nipples(chest: Chest, g: np.random.Generator) -> Finding:
    both, one = g.random() < 0.65, random_side(g)
    x, y = g.uniform(0.5, 0.72) * chest.half_width * 1.15, g.uniform(0.72, 0.9) * chest.height
    radius, height = g.uniform(0.35, 0.55), g.uniform(0.12, 0.24)
    boxes = []
    for side in (RIGHT, LEFT) if both else (one,):
        centre = np.array([side * x, y]) + g.normal(0, 0.3, 2)
        window, near = chest.canvas.around(centre, margin=2.2 * radius)
        r = np.sqrt((near.x - centre[0]) ** 2 + (near.y - centre[1]) ** 2)
        # Air around a protruding nipple shows as a fine dark rim on its outer side.
        rim = np.exp(-(((r - 1.25 * radius) / (0.25 * radius)) ** 2))
        chest.extra[window] += np.float32(height) * ramp(radius - r, 0.5 * radius)
        chest.extra[window] -= np.float32(0.05) * rim
        boxes.append(chest.canvas.box(centre, margin=radius))
    return Finding("Nodule/Mass", tuple(boxes), 0.3)


def _skin_fold(chest: Chest, g: np.random.Generator) -> Finding:
    canvas, side = chest.canvas, random_side(g)
    top, length = g.uniform(0.05, 0.25) * chest.height, g.uniform(0.4, 0.7) * chest.height
    x_top, lean = chest.half_width * g.uniform(0.62, 0.85), g.uniform(-0.12, 0.12)
    y = [top - 10, top + 0.5 * length, top + length + 10]
    off = side * canvas.x - canvas.by_y(smooth_curve(y, [x_top - 10 * lean - 0.8, x_top, x_top - 0.8], 6))
    along = ramp(canvas.y - top, 2.0) * ramp(top + length - canvas.y, 3.0)
    fold = ramp(-off, 0.12) * np.exp(np.minimum(off, 0) * (1 / 0.9))
    chest.extra += g.uniform(0.13, 0.22) * fold * along
    box = canvas.box([(side * (x_top - 1), top), (side * chest.half_width, top + length)])
    return Finding("Pneumothorax", (box,), 0.3)


def _leads(chest: Chest, g: np.random.Generator) -> None:
    count = int(g.integers(2, 5))
    x, y = g.uniform(-0.9, 0.9, count) * chest.half_width, g.uniform(0.1, 1.05, count) * chest.height
    bends = g.normal(0, 3.0, (count, 2))
    ends = np.stack([np.sign(x) * 26, g.uniform(-6, 6, count)], axis=1)
    ring, pen = g.uniform(0.4, 0.7) * circle(20), Pen(chest.canvas)
    for spot, bend, end in zip(np.stack([x, y], axis=1), bends, ends, strict=True):
        pen.line(bezier(spot, 0.5 * (spot + end) + bend, end, 24), 0.30, 0.12)
        pen.polygon(spot + ring, 0.45).polygon(spot + 0.45 * ring, 1.0)
    chest.extra += pen.layer() * 0.9


def _central_line(chest: Chest, g: np.random.Generator) -> None:
    side = RIGHT if g.random() < 0.7 else LEFT
    x = side * 9.0, side * 5.0, side * 2.2, -1.9, -2.0
    points = np.stack([x, (-12.0, 0.5, 3.0, 0.25 * chest.height, 0.4 * chest.height)], axis=1)
    points += g.normal(0, 0.35, points.shape)
    t = np.linspace(0, 4, 40)
    path = np.stack([np.interp(t, range(5), column) for column in points.T], axis=1)
    path[2:-2] = sum(path[k : len(path) - 4 + k] for k in range(5)) / 5
    chest.extra += Pen(chest.canvas).line(path, 1.0, 0.2).layer() * 0.35


#: Mimics, in the order of drawing, and the share of images that show them.
_MIMICS: dict[_Draw, float] = {_nipples: 0.15, _skin_fold: 0.12, _leads: 0.12, _central_line: 0.05}


def add_mimics(chest: Chest, g: np.random.Generator) -> tuple[Finding, ...]:
    """Draw normal structures, and return those that a reader might take for a finding.

    They are drawn on normal and abnormal images alike.
    """
    chance = zip(_MIMICS.items(), g.random(len(_MIMICS)), strict=True)
    drawn = [draw(chest, g) for (draw, share), u in chance if u < share]
    return tuple(filter(None, drawn))
