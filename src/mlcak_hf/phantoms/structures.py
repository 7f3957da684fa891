"""Bones and lung vessels of a chest, and the fine texture of the lungs."""

from __future__ import annotations

import numpy as np

from .canvas import Array, Pen, at, band, circle, enlarge, ramp, smooth_curve, soften
from .chest import LEFT, RIGHT, Chest

_RIBS = 11  # on each side
_CORE_WIDTH, _CORE_DENSITY = 0.74, 0.80  # of a rib's less dense core, relative to the bone and its cortex

_LEVELS = 7  # of branching of the vessels
_WIDEST_CM = 0.56
_STEPS = 4  # straight pieces of a branch


def _rib_paths(chest: Chest, g: np.random.Generator) -> tuple[Array, Array]:
    """Posterior part of every rib (ribs, points, 2) and anterior part of all but the last two, right side first."""
    patient, posterior, anterior = chest.patient, [], []
    start, bend = g.normal(-1.0, 0.3), g.uniform(0.9, 1.1)
    for side, i in ((side, i) for side in (RIGHT, LEFT) for i in range(_RIBS)):
        y0 = start + i * patient.rib_pitch * patient.lung_height * (0.97 if i < 3 else 1.0) + 0.08 * g.normal()
        growth = min(1.0, (i + 1.2) / 4.5)
        drop = patient.rib_drop * (1.7 + 2.6 * growth) * bend + (0.9 if i < 2 else 0.0)
        y_side = y0 + drop
        x_side = float(at(chest.lateral, max(y_side, 0.6))) + 0.28
        if i < 2:  # the first two curve tightly around the apex
            x_side = min(x_side, (0.60, 0.78)[i] * patient.half_width)
        t = np.linspace(0, 1, 26)
        angle = 0.5 * np.pi * t
        flat = (0.35 if i > 1 else 0.0) * growth * np.sin(np.pi * np.minimum(t * 2.2, 1))
        y = y0 + drop * (1 - np.cos(angle)) ** 1.08 - flat
        x = 2.1 + (x_side - 2.1) * np.sin(angle) ** 0.94
        x = np.minimum(x, at(chest.lateral, np.maximum(y, 0.6)) + 0.3)
        posterior.append(np.stack([side * x, y], axis=1))
        angle = np.linspace(0, 0.5 * np.pi * (0.62 + 0.05 * g.normal() if i < 7 else 0.5), 22)
        if i <= 8:
            y = y_side + (2.6 + 3.6 * growth) * (0.8 + 0.25 * patient.rib_drop) * np.sin(angle) ** 1.15
            anterior.append(np.stack([side * (1.5 + (x_side - 1.5) * np.cos(angle)), y], axis=1))
    return np.stack(posterior), np.stack(anterior)


def ribs(chest: Chest, g: np.random.Generator) -> Array:
    """Attenuation of the ribs."""
    canvas, half = chest.canvas, chest.patient.rib_half_width
    posterior, anterior = _rib_paths(chest, g)
    first = np.where(np.arange(len(posterior)) % _RIBS == 0, 0.8, 1.0)[:, None]
    half_posterior = half * first * np.linspace(0.85, 1.0, posterior.shape[1])
    half_anterior = half * np.linspace(0.95, 1.25, anterior.shape[1])

    def draw(rib: Array, half_width: Array, value: float) -> Array:
        pen = Pen(canvas).polygon(band(rib, half_width), value)
        return pen.polygon(band(rib, half_width * _CORE_WIDTH), _CORE_DENSITY).layer()

    lateral = canvas.by_y(chest.lateral)
    side = np.abs(canvas.x) / lateral
    # The ribs turn around at the chest wall.
    inside = ramp(lateral + 0.55 - np.abs(canvas.x), 0.4)
    inside += (canvas.y < 1.5) * (1 - inside)
    behind = draw(posterior, half_posterior, 1.0) * (0.19 + 0.20 * np.minimum(side, 1.1) ** 8)
    front = draw(anterior, half_anterior, 0.95) * (0.125 * ramp(side - 0.68, 0.6) + 0.035)
    density = 0.9 + 0.2 * g.random() - 0.003 * (chest.patient.age_years - 50)
    return (behind + front) * inside * (density * ramp(canvas.y - 0.5, 7.0))


def clavicles_and_shoulders(chest: Chest, g: np.random.Generator) -> Array:
    """Attenuation of clavicles, scapulae and humeri."""
    width, lift = chest.half_width, g.normal(0, 0.8)
    forward = g.uniform(0.2, 1.6)  # shoulders rolled forward move the scapulae off the lungs
    joint = 1.17 * width + 0.6
    swell = (0.60 + 0.24 * np.abs(np.linspace(-1, 1, 30)) ** 2) * np.clip(np.linspace(9.0, 0.5, 30), 0.5, 1)
    pen = Pen(chest.canvas)
    for side in (RIGHT, LEFT):
        inner = 1.7 + side * 0.5 * chest.exposure.yaw
        x = np.array([inner, inner + 1.6, *(width * np.array([0.36, 0.55, 0.78, 1.0, 1.12]))])
        y = np.array([3.1, 2.5, 1.75, 1.25, 0.35, -0.35, -0.1]) + np.linspace(0, 1, 7) * lift * 1.2
        t = np.linspace(0, 6, 30)
        clavicle = np.stack([side * np.interp(t, range(7), x), np.interp(t, range(7), y)], axis=1)
        x = np.array([joint, joint - 0.4, *(width * np.array([0.93, 0.90, 0.84, 0.80, 0.76, 0.84]) + forward)])
        y = np.array([1.2, 4.6, 10.0, 12.4, 12.0, 8.0, 2.2, 1.0]) + lift
        scapula = np.stack([side * x, y], axis=1)
        head = (2.25 * circle(28) + (joint + 2.0, 2.7 + lift)) * (side, 1)
        centre = head.mean(0)
        shaft = np.array([centre, centre + np.array([side * 6.0, 28.0])])
        pen.polygon(scapula, 0.22)
        pen.line(scapula[1:4], 0.55, 0.45).line(scapula[3:7], 0.36, 0.18).line(scapula[[6, 7, 0]], 0.5, 0.5)
        pen.polygon(band(shaft, 1.45), 0.9).polygon(band(shaft, 0.85), 0.55)
        pen.polygon(head, 0.85).polygon((head - centre) * 0.88 + centre, 0.68)
        pen.polygon(band(clavicle, swell), 0.95).polygon(band(clavicle, swell * 0.66), 0.70)
    return pen.layer() * (0.36 + 0.06 * g.random())


def add_spine(chest: Chest, g: np.random.Generator) -> None:
    """Add the vertebral column."""
    canvas, patient = chest.coarse, chest.patient
    pitch = patient.rib_pitch * patient.lung_height
    bend = smooth_curve([-20, 0, 11, 24, 45], [0, -0.2 * patient.scoliosis, patient.scoliosis, -0.4, 0], 5.0)
    across = canvas.x - canvas.by_y(bend)
    phase = (canvas.y - g.uniform(0, pitch)) * (2 * np.pi / pitch)
    wave, side = np.cos(phase), np.abs(across)
    half = canvas.by_y(smooth_curve([-20, 0, 12, 30], [1.5, 1.65, 1.85, 2.4], 3.0))
    body = ramp(half * (1 + 0.07 * wave) - side, 0.45)
    disc = ramp(wave - 0.82, 0.3)
    pedicle = np.exp(-(((side - half * 0.62) / 0.34) ** 2)) * ramp(-wave - 0.3, 0.7)
    process = np.exp(-((across / 0.28) ** 2)) * ramp(np.cos(phase + 1.1) - 0.2, 0.8)
    transverse = np.exp(-(((side - half - 0.5) / 0.7) ** 2)) * ramp(-wave - 0.55, 0.5)
    density = (0.9 + 0.2 * g.random()) * ramp(canvas.y + 2.0, 14.0)
    column = body * (0.44 - 0.10 * disc) + 0.13 * pedicle + 0.11 * process + 0.09 * transverse
    chest.smooth += (density * 0.55 + 0.45) * column


def _vessel_tree(chest: Chest, side: int, g: np.random.Generator) -> list[tuple[Array, Array]]:
    """Vessels of one lung: for each level the branches (n, points, 2) and their widths (n,), in cm."""
    hilum = np.array([side * 2.7, (0.43 if side == RIGHT else 0.39) * chest.height])
    # Main branches fan out from almost straight up to straight down; the lower lobes have more and wider ones.
    count = 11
    angle = np.linspace(-1.25, 1.42, count) + g.normal(0, 0.10, count)
    start = hilum + np.stack([side * (0.5 * np.cos(angle) - 0.4), 1.3 * np.sin(angle)], axis=1)
    width = _WIDEST_CM * g.uniform(0.6, 1.0, count) * np.where(angle > 0.2, 1.0, 0.8)
    length = 0.17 * chest.height * g.uniform(0.8, 1.2, count) * np.where(np.abs(angle) > 0.8, 1.15, 0.9)
    levels: list[tuple[Array, Array]] = []
    for level in range(_LEVELS):
        points = [start]
        for _ in range(_STEPS):
            angle = angle + g.normal(0, 0.17, len(angle))
            step = np.stack([side * np.cos(angle), np.sin(angle)], axis=1) * (length / _STEPS)[:, None]
            points.append(points[-1] + step)
        levels.append((np.stack(points, axis=1), width))
        if level == _LEVELS - 1:
            break
        # Two daughters at the end, and a thin twig from the middle.
        spread = g.uniform(0.22, 0.52, len(angle))
        twig = angle + np.where(g.random(len(angle)) < 0.5, -1, 1) * g.uniform(0.6, 1.0, len(angle))
        start = np.concatenate([points[-1], points[-1], points[_STEPS // 2]])
        angle = np.concatenate([angle - spread, angle + spread * 0.8, twig])
        width = np.concatenate([width * g.uniform(0.68, 0.84, len(width)), width * 0.66, width * 0.45])
        length = np.concatenate([length * 0.78, length * 0.70, length * 0.6]) * g.uniform(0.8, 1.15, len(angle))
        x, y = start.T
        keep = (np.abs(x) < at(chest.lateral, y)) & (y > 0) & (y < at(chest.diaphragm, x) + 2) & (width > 0.06)
        start, angle, width, length = start[keep], angle[keep], width[keep], length[keep]
    return levels


def add_lung_markings(chest: Chest, g: np.random.Generator) -> None:
    """Add vessels, which taper from the hila, and of the fine texture between them."""
    canvas = chest.canvas
    trees = [_vessel_tree(chest, side, g) for side in (RIGHT, LEFT)]
    u, v, w = g.random((3, 10))
    of_side = [chest.inside_lung(side, 0.05 + 0.3 * v, 0.3 + 0.4 * w) for side in (RIGHT, LEFT)]
    ends_on = np.where((u < 0.5)[:, None], *of_side)
    radius = 0.16 + 0.12 * np.abs(v - w)
    pen = Pen(canvas)
    # Thin vessels first, so that they do not cut wide ones where they cross.
    for branches, widths in (tree[level] for level in reversed(range(_LEVELS)) for tree in trees):
        for group in filter(len, np.array_split(np.argsort(widths), 4)):
            wide = float(widths[group].mean())
            pen.line(branches[group], min(1.0, wide / _WIDEST_CM), wide, rounded=False)
    # Vessels seen end-on look like tiny nodules near the hila.
    pen.polygon(ends_on[:, None] + radius[:, None, None] * circle(10), 0.75)
    # Round vessels have soft edges.
    chest.vessels = soften(pen.layer(), 0.045 / canvas.cm_per_px) * (0.42 * chest.patient.vessels)
    chest.vessels *= 0.35 + 0.65 * ramp(0.92 - np.abs(canvas.x) / canvas.by_y(chest.lateral), 0.7)
    cells = max(2, round(0.32 / canvas.cm_per_px))
    texture = np.zeros_like(chest.vessels)
    for size, strength in ((cells, 0.016), (4 * cells, 0.030)):
        noise = g.standard_normal((canvas.height // size + 2, canvas.width // size + 2), dtype=np.float32)
        texture += strength * enlarge(noise, canvas.height, canvas.width)
    chest.vessels = (chest.vessels + texture) * chest.lung
