"""Ribs, clavicles, spine, scapulae and arms."""

from __future__ import annotations

import numpy as np

from .anatomy import LEFT, RIGHT, Outlines
from .canvas import Canvas, FloatArray, Pen, at, band, circle, ramp, smooth_curve
from .plan import Exposure, Patient

Path = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

_RIBS = 11
_CORE_WIDTH = 0.74  # half width of the less dense core, relative to the bone's
_CORE_DENSITY = 0.80  # relative to the cortex


def rib_paths(patient: Patient, outlines: Outlines, shape: np.random.Generator) -> list[tuple[Path, Path]]:
    """Posterior and anterior part of every rib, right side first, as points (n, 2) in cm."""
    height = patient.lung_height
    paths = []
    start = shape.normal(-1.0, 0.3)
    bend = shape.uniform(0.9, 1.1)
    for side in (RIGHT, LEFT):
        for i in range(_RIBS):
            y0 = start + i * patient.rib_pitch * height * (0.97 if i < 3 else 1.0) + 0.08 * shape.normal()
            growth = min(1.0, (i + 1.2) / 4.5)
            drop = patient.rib_drop * (1.7 + 2.6 * growth) * bend + (0.9 if i < 2 else 0.0)
            fall = (2.6 + 3.6 * growth) * (0.8 + 0.25 * patient.rib_drop)
            y_side = y0 + drop
            x_side = float(at(outlines.lateral, max(y_side, 0.6))) + 0.28
            if i < 2:  # the first two curve tightly around the apex
                x_side = min(x_side, (0.60, 0.78)[i] * patient.half_width)
            t = np.linspace(0, 1, 26)
            angle = 0.5 * np.pi * t
            flat = (0.35 if i > 1 else 0.0) * growth * np.sin(np.pi * np.minimum(t * 2.2, 1))
            x = 2.1 + (x_side - 2.1) * np.sin(angle) ** 0.94
            y = y0 + drop * (1 - np.cos(angle)) ** 1.08 - flat
            x = np.minimum(x, at(outlines.lateral, np.maximum(y, 0.6)) + 0.3)
            posterior = np.stack([side * x, y], axis=1)
            end = 0.5 * np.pi * (0.62 + 0.05 * shape.normal()) if i < 7 else 0.5 * np.pi * 0.5
            angle = np.linspace(0, end, 22)
            x = 1.5 + (x_side - 1.5) * np.cos(angle)
            y = y_side + fall * np.sin(angle) ** 1.15
            anterior = np.stack([side * x, y], axis=1)
            paths.append((posterior, anterior))
    return paths


def ribs(canvas: Canvas, patient: Patient, outlines: Outlines, shape: np.random.Generator) -> FloatArray:
    """Attenuation of the ribs."""
    paths, half = rib_paths(patient, outlines, shape), patient.rib_half_width
    posterior = np.stack([path for path, _ in paths])
    anterior = np.stack([path for k, (_, path) in enumerate(paths) if k % _RIBS <= 8])
    first = np.where(np.arange(len(paths)) % _RIBS == 0, 0.8, 1.0)[:, None]
    half_posterior = half * first * np.linspace(0.85, 1.0, posterior.shape[1])
    half_anterior = half * np.linspace(0.95, 1.25, anterior.shape[1])

    def paint(pen: Pen, rib: Path, half_width: Path, value: float) -> None:
        pen.polygon(band(rib, half_width), value)
        pen.polygon(band(rib, half_width * _CORE_WIDTH), _CORE_DENSITY)

    lateral = canvas.by_y(outlines.lateral)
    side = np.abs(canvas.x) / lateral
    # The ribs turn around at the chest wall.
    inside = ramp(lateral + np.float32(0.55) - np.abs(canvas.x), 0.4)
    inside += (canvas.y < 1.5) * (1 - inside)
    rim = np.minimum(side, 1.1) ** 8
    behind = canvas.draw(lambda pen: paint(pen, posterior, half_posterior, 1.0)) * (
        np.float32(0.19) + np.float32(0.20) * rim
    )
    front = canvas.draw(lambda pen: paint(pen, anterior, half_anterior, 0.95))
    front *= np.float32(0.125) * ramp(side - 0.68, 0.6) + np.float32(0.035)
    density = 0.9 + 0.2 * shape.random() - 0.003 * (patient.age_years - 50)
    shown = (behind + front) * inside * (np.float32(density) * ramp(canvas.y - 0.5, 7.0))
    return np.asarray(shown, dtype=np.float32)


def clavicles_and_shoulders(
    canvas: Canvas, patient: Patient, exposure: Exposure, shape: np.random.Generator
) -> FloatArray:
    """Attenuation of clavicles, scapulae and humeri."""
    width = patient.half_width
    lift = shape.normal(0, 0.8)
    forward = shape.uniform(0.2, 1.6)  # shoulders rolled forward move the scapulae off the lungs

    def side_paths(side: int) -> tuple[Path, Path, Path]:
        inner = 1.7 + side * 0.5 * exposure.yaw
        x = np.array([inner, inner + 1.6, 0.36 * width, 0.55 * width, 0.78 * width, 1.0 * width, 1.12 * width])
        y = np.array([3.1, 2.5, 1.75, 1.25, 0.35, -0.35, -0.1]) + np.linspace(0, 1, 7) * lift * 1.2
        t = np.linspace(0, 6, 30)
        clavicle = np.stack([side * np.interp(t, range(7), x), np.interp(t, range(7), y)], axis=1)
        joint = 1.17 * width + 0.6
        x = np.array([joint, joint - 0.4, *(width * np.array([0.93, 0.90, 0.84, 0.80, 0.76, 0.84]) + forward)])
        y = np.array([1.2, 4.6, 10.0, 12.4, 12.0, 8.0, 2.2, 1.0]) + lift
        scapula = np.stack([side * x, y], axis=1)
        head = (2.25 * circle(28) + (joint + 2.0, 2.7 + lift)) * (side, 1)
        return clavicle, scapula, head

    def paint(pen: Pen) -> None:
        for side in (RIGHT, LEFT):
            clavicle, scapula, head = side_paths(side)
            swell = (0.60 + 0.24 * np.abs(np.linspace(-1, 1, 30)) ** 2) * np.clip(np.linspace(9.0, 0.5, 30), 0.5, 1)
            pen.polygon(scapula, 0.22)
            pen.line(scapula[[1, 2, 3]], 0.55, 0.45)
            pen.line(scapula[[3, 4, 5, 6]], 0.36, 0.18)
            pen.line(scapula[[6, 7, 0]], 0.5, 0.5)
            centre = head.mean(0)
            shaft = np.array([centre, centre + np.array([side * 6.0, 28.0])])
            pen.polygon(band(shaft, 1.45), 0.9)
            pen.polygon(band(shaft, 0.85), 0.55)
            pen.polygon(head, 0.85)
            pen.polygon((head - centre) * 0.88 + centre, 0.68)
            pen.polygon(band(clavicle, swell), 0.95)
            pen.polygon(band(clavicle, swell * 0.66), 0.70)

    return np.asarray(canvas.draw(paint) * np.float32(0.36 + 0.06 * shape.random()), dtype=np.float32)


def spine(canvas: Canvas, patient: Patient, shape: np.random.Generator) -> FloatArray:
    """Attenuation of the vertebral column."""
    pitch = patient.rib_pitch * patient.lung_height
    bend = smooth_curve([-20, 0, 11, 24, 45], [0, -0.2 * patient.scoliosis, patient.scoliosis, -0.4, 0], 5.0)
    across = canvas.x - canvas.by_y(bend)
    phase = (canvas.y - shape.uniform(0, pitch)) * np.float32(2 * np.pi / pitch)
    wave = np.cos(phase)
    half = canvas.by_y(smooth_curve([-20, 0, 12, 30], [1.5, 1.65, 1.85, 2.4], 3.0))
    body = ramp(half * (1 + np.float32(0.07) * wave) - np.abs(across), 0.45)
    disc = ramp(wave - np.float32(0.82), 0.3)
    pedicle_x = (np.abs(across) - half * np.float32(0.62)) / np.float32(0.34)
    pedicle = np.exp(-(pedicle_x**2)) * ramp(-wave - np.float32(0.3), 0.7)
    process = np.exp(-((across / np.float32(0.28)) ** 2)) * ramp(np.cos(phase + np.float32(1.1)) - 0.2, 0.8)
    transverse = np.exp(-(((np.abs(across) - half - 0.5) / np.float32(0.7)) ** 2)) * ramp(-wave - 0.55, 0.5)
    density = np.float32(0.9 + 0.2 * shape.random()) * ramp(canvas.y + 2.0, 14.0)
    column = body * (np.float32(0.44) - np.float32(0.10) * disc) + np.float32(0.13) * pedicle
    column = column + np.float32(0.11) * process + np.float32(0.09) * transverse
    return np.asarray((density * np.float32(0.55) + np.float32(0.45)) * column, dtype=np.float32)
