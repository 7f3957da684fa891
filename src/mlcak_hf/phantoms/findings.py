"""Findings: how each changes outlines, markings or attenuation, and its boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .anatomy import LEFT, RIGHT, Chest, Enlargement, Outlines
from .canvas import Pen, at, bezier, ramp, table_axis

PixelBox = tuple[float, float, float, float]


@dataclass(frozen=True)
class Finding:
    """A finding as drawn.

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


def draw_enlargement(findings: tuple[str, ...], generators: dict[str, np.random.Generator]) -> Enlargement:
    """Draw how the findings change the outlines; `generators` holds one generator per finding name."""
    heart = generators["Cardiomegaly"].uniform(0.56, 0.68)
    aorta = generators["Aortic enlargement"]
    knob, bulge = aorta.uniform(1.75, 2.8), aorta.uniform(0.3, 1.3)
    ratio = float(heart) if "Cardiomegaly" in findings else None
    return Enlargement(ratio, float(knob), float(bulge)) if "Aortic enlargement" in findings else Enlargement(ratio)


def random_side(g: np.random.Generator) -> int:
    """`RIGHT` or `LEFT`."""
    return RIGHT if g.random() < 0.5 else LEFT


def pour_effusion(outlines: Outlines, g: np.random.Generator) -> list[tuple[int, float]]:
    """Fill one or both pleural spaces; return (side, level of the meniscus at the chest wall in cm) for each."""
    sides = [RIGHT, LEFT] if g.random() < 0.3 else [random_side(g)]
    axis = table_axis()
    levels = []
    for side in sides:
        depth = g.uniform(0.6, 1.0) + g.exponential(2.2)
        rise = g.uniform(2.5, 5.0)
        level = outlines.lung_height - min(depth, 0.5 * outlines.lung_height)
        # The meniscus is lowest near the heart and climbs steeply along the chest wall.
        reach = (side * axis - 0.3 * outlines.half_width) / (0.7 * outlines.half_width)
        climb = np.where(reach > 0, np.abs(reach) ** 2.6, 0.5 * np.abs(reach) ** 1.5)
        surface = (level - rise * np.minimum(climb, 1.3)).astype(np.float32)
        wet = (side * axis > 0) & (surface < outlines.diaphragm)
        outlines.diaphragm = np.where(wet, surface, outlines.diaphragm).astype(np.float32)
        outlines.diaphragm_softness = np.where(wet, np.float32(1.4), outlines.diaphragm_softness).astype(np.float32)
        levels.append((side, float(level - rise)))
    return levels


def _box_around(mask: npt.NDArray[np.bool_]) -> PixelBox:
    rows, columns = np.nonzero(mask)
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def _cardiomegaly(chest: Chest, g: np.random.Generator) -> Finding:
    o = chest.outlines
    box = chest.canvas.box([(-o.heart_right, 0.45 * o.lung_height), (o.heart_left, 1.02 * o.lung_height)])
    return Finding("Cardiomegaly", (box,), 0.8)


def _aortic_enlargement(chest: Chest, g: np.random.Generator) -> Finding:
    o = chest.outlines
    half = 0.10 * o.lung_height
    box = chest.canvas.box([(-0.8, o.knob_y - half), (o.knob_x, o.knob_y + half)], margin=0.3)
    return Finding("Aortic enlargement", (box,), 0.6)


def _nodules(chest: Chest, g: np.random.Generator) -> Finding:
    count = int(g.choice([1, 2, 3], p=[0.55, 0.3, 0.15]))
    boxes, best = [], 0.0
    for _ in range(count):
        side = random_side(g)
        centre = chest.outlines.inside_lung(side, g.uniform(0.2, 0.88), g.uniform(0.12, 0.86))
        mass = g.random() < 0.08
        diameter = g.uniform(2.0, 3.2) if mass else g.uniform(0.75, 1.35)
        peak = g.uniform(0.35, 0.5) if mass else g.uniform(0.5, 0.85)
        lobes, turn, rough = g.integers(2, 6), g.uniform(0, 6.3), g.uniform(0.02, 0.09)
        rows, columns = chest.canvas.window(centre, margin=diameter)
        dx, dy = chest.canvas.x[rows, columns] - centre[0], chest.canvas.y[rows, columns] - centre[1]
        radius = 0.5 * diameter * (1 + rough * np.cos(lobes * np.arctan2(dy, dx) + turn))
        inside = np.clip(1 - (dx**2 + dy**2) / radius**2, 0, 1)
        chest.extra[rows, columns] += np.float32(peak) * np.sqrt(inside).astype(np.float32)
        boxes.append(chest.canvas.box(centre, margin=0.5 * diameter * 1.1))
        best = max(best, float(peak * diameter))
    return Finding("Nodule/Mass", tuple(boxes), float(np.clip(best / 1.0, 0.2, 1)))


def _pneumothorax(chest: Chest, g: np.random.Generator) -> Finding:
    o, canvas = chest.outlines, chest.canvas
    side = random_side(g)
    end = o.lung_height * g.uniform(0.55, 0.9)
    down, inward = g.uniform(1.2, 3.0), g.uniform(1.3, 2.6)
    # Border of the collapsed lung: the apex moves down and the lateral border inwards, less so towards `end`.
    y_in = np.linspace(0.25 * end, 0.0, 16)[:-1]
    y_out = np.linspace(0.0, end, 40)
    inner = np.stack([at(o.medial, y_in) + 0.3, y_in], axis=1)
    outer = np.stack([at(o.lateral, y_out), y_out], axis=1)
    path = np.concatenate([inner, outer]).astype(np.float64)
    fade = np.clip(1 - path[:, 1] / end, 0, 1)
    weight = np.concatenate([np.linspace(0.0, 0.4, len(inner)), np.linspace(0.4, 1.0, 12), np.ones(len(outer) - 12)])
    path[:, 0] -= inward * fade**0.7 * weight
    path[:, 1] += down * fade
    path[:, 0] *= side
    closed = np.concatenate([path, [(side * 40.0, end), (side * 40.0, 80.0), (0.0, 80.0), (0.0, path[0, 1])]])
    beyond = (
        (1 - canvas.draw(lambda pen: pen.polygon(closed, 1.0))) * ramp(side * canvas.x - 0.5, 0.5) * (canvas.y < end)
    )
    beyond *= chest.lung
    lost = chest.vessels * beyond
    chest.vessels -= lost
    # The attenuation of the lost markings is added back, so that the mean brightness does not change.
    chest.extra += beyond * np.float32(lost.sum() / max(float(beyond.sum()), 1.0))
    strength = g.uniform(0.28, 0.48)
    chest.extra += (
        canvas.draw(lambda pen: pen.line(path, 1.0, 0.19)) * np.maximum(chest.lung, beyond) * np.float32(strength)
    )
    top = np.array([(side * 0.1 * o.half_width, 0.2), (side * float(at(o.lateral, end)), end)])
    box = canvas.box(np.concatenate([path[len(inner) - 4 :], top[1:], [(path[len(inner), 0], 0.2)]]))
    return Finding("Pneumothorax", (box,), float(np.clip((strength - 0.2) * 3.6, 0.2, 1)))


def _fibrosis(chest: Chest, g: np.random.Generator) -> Finding:
    o, canvas = chest.outlines, chest.canvas
    sides = [RIGHT, LEFT] if g.random() < 0.7 else [random_side(g)]
    net = np.exp(-((canvas.noise(g, 0.60) / np.float32(0.30)) ** 2))
    net += np.float32(0.6) * np.exp(-((canvas.noise(g, 0.85) / np.float32(0.26)) ** 2))
    strength = np.float32(g.uniform(0.24, 0.42))
    boxes = []
    for side in sides:
        centre = o.inside_lung(side, g.uniform(0.5, 0.75), g.uniform(0.6, 0.85))
        rx, ry = g.uniform(2.8, 4.2), g.uniform(3.2, 5.5)
        mask = ramp(1 - np.sqrt(canvas.ellipse(centre, rx, ry)), 0.5) * chest.lung
        share = float((net * mask).sum() / max(float(mask.sum()), 1.0))
        chest.extra += strength * mask * (net - np.float32(share))
        if (mask > 0.25).any():
            boxes.append(_box_around(mask > 0.25))
    return Finding("Pulmonary fibrosis", tuple(boxes), float(np.clip((strength - 0.2) * 4, 0.2, 1)))


def _consolidation(chest: Chest, g: np.random.Generator) -> Finding:
    o, canvas = chest.outlines, chest.canvas
    side = random_side(g)
    centre = o.inside_lung(side, g.uniform(0.3, 0.65), g.uniform(0.3, 0.8))
    rx, ry = g.uniform(2.8, 4.6), g.uniform(2.8, 5.2)
    r = np.sqrt(canvas.ellipse(centre, rx, ry))
    patchy = canvas.noise(g, 1.3)
    mask = ramp(1 - r + np.float32(0.20) * patchy, 0.9) * ramp(1.5 - r, 0.6) * (side * canvas.x > 0)
    opacity = g.uniform(0.42, 0.75)
    chest.extra += np.float32(opacity) * mask * chest.air * (1 + np.float32(0.10) * patchy)
    hilum = np.array([side * 3.0, 0.42 * o.lung_height])
    spread = g.normal(0, 0.5, (3, 4))

    def paint(pen: Pen) -> None:
        for k in range(3):
            tip = centre + np.array([spread[k, 0] * rx, spread[k, 1] * ry]) * 0.9
            pen.line(bezier(hilum, 0.5 * (hilum + tip) + spread[k, 2:], tip, 12), 1.0, 0.22)

    # Air-filled bronchi stay dark in the consolidated lung.
    chest.extra -= canvas.draw(paint) * mask * np.float32(0.16)
    chest.vessels *= 1 - np.float32(0.75) * mask
    visible = mask * chest.lung > 0.3
    box = _box_around(visible if visible.any() else mask > 0.3)
    return Finding("Consolidation", (box,), float(opacity))


_IN_LUNG: dict[str, Callable[[Chest, np.random.Generator], Finding]] = {
    "Aortic enlargement": _aortic_enlargement,
    "Cardiomegaly": _cardiomegaly,
    "Consolidation": _consolidation,
    "Pneumothorax": _pneumothorax,
    "Pulmonary fibrosis": _fibrosis,
    "Nodule/Mass": _nodules,
}


def add_findings(
    chest: Chest,
    findings: tuple[str, ...],
    generators: dict[str, np.random.Generator],
    fluid: list[tuple[int, float]],
) -> tuple[Finding, ...]:
    """Draw the findings on the layers of the image, which change in place; `fluid` comes from `pour_effusion`."""
    drawn = {name: draw(chest, generators[name]) for name, draw in _IN_LUNG.items() if name in findings}
    if fluid:
        width, low = chest.outlines.half_width, chest.outlines.lung_height + 4.0
        corners = [[(side * 0.3 * width, level), (side * width, low)] for side, level in fluid]
        drawn["Pleural effusion"] = Finding("Pleural effusion", tuple(map(chest.canvas.box, corners)), 0.8)
    return tuple(drawn[name] for name in findings)
