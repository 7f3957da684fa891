"""Geometry of images: exact area averages, the square, and boxes between original and model coordinates."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

FIT_CHOICES = ("pad", "squash")

# Rows of weights that are multiplied at a time: few enough to skip nearly all zeros, enough to be fast.
_ROWS_AT_A_TIME = 8
# Largest product that numpy's library computes with one thread. More threads are slower for images, compete with the
# data loader's other processes, and change the last bits.
_ONE_THREAD = 1 << 18


@lru_cache(maxsize=256)
def area_weights(n_in: int, n_out: int) -> np.ndarray:
    """
    Weights of the exact area average of `n_in` samples into `n_out`: fractional overlap of each output interval with
    each input sample. Enlarging gives the piecewise constant signal's averages.

    Args:
        n_in (`int`): Number of input samples, >= 1.
        n_out (`int`): Number of output samples, >= 1.

    Returns:
        `np.ndarray` of shape `(n_out, n_in)`: float32, read-only, every row sums to 1.

    Raises:
        ValueError: If a count is below 1.
    """
    if n_in < 1 or n_out < 1:
        raise ValueError(f"area_weights needs at least one sample on either side; got n_in={n_in}, n_out={n_out}.")
    # In units of 1 / (n_in * n_out) all edges are whole numbers, so the overlaps are exact.
    out_edges = np.arange(n_out + 1, dtype=np.int64) * n_in
    in_edges = np.arange(n_in + 1, dtype=np.int64) * n_out
    low = np.maximum(out_edges[:-1, None], in_edges[None, :-1])
    high = np.minimum(out_edges[1:, None], in_edges[None, 1:])
    weights = np.asarray(np.clip(high - low, 0, None) / n_in, dtype=np.float32)
    weights.setflags(write=False)
    return weights


@lru_cache(maxsize=64)
def bilinear_weights(n_in: int, n_out: int) -> np.ndarray:
    """Read-only weights `(n_out, n_in)` of bilinear interpolation between pixel centres, clamped at the border."""
    centres = np.clip((np.arange(n_out) + 0.5) * n_in / n_out - 0.5, 0, n_in - 1)
    weights: np.ndarray = np.clip(1 - np.abs(centres[:, None] - np.arange(n_in)[None, :]), 0, None).astype(np.float32)
    weights.setflags(write=False)
    return weights


def area_resize(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """
    Resize by exact area averages.

    Args:
        images (`np.ndarray` of shape `(..., H, W)`): Any real dtype.
        height (`int`): New height in pixels.
        width (`int`): New width in pixels.

    Returns:
        `np.ndarray` of shape `(..., height, width)`: float32. At the same size, an exact copy.

    Raises:
        ValueError: If `images` has fewer than two axes or a size is below 1.
    """
    images = np.asarray(images)
    if images.ndim < 2:
        raise ValueError(f"area_resize expects images of shape (..., height, width); got shape {images.shape}.")
    if images.shape[-2:] == (height, width):
        return np.array(images, dtype=np.float32, order="C")
    images = np.ascontiguousarray(images, dtype=np.float32)
    rows, columns = images.shape[-2:]
    by_rows = np.empty((*images.shape[:-2], height, columns), dtype=np.float32)
    for out, taken, weights in _area_runs(rows, height):
        weigh_rows(weights, images[..., taken, :], out=by_rows[..., out, :])
    resized = np.empty((*images.shape[:-2], height, width), dtype=np.float32)
    for out, taken, weights in _area_runs(columns, width):
        weigh_columns(by_rows[..., taken], weights, out=resized[..., out])
    return resized


def weigh_rows(weights: np.ndarray, images: np.ndarray, out: np.ndarray) -> None:
    """
    `out = weights @ images`, in products that numpy's library computes with one thread.

    Args:
        weights (`np.ndarray` of shape `(n, H)`): For `n` rows of the result.
        images (`np.ndarray` of shape `(..., H, W)`): float32.
        out (`np.ndarray` of shape `(..., n, W)`): Written.
    """
    step = max(1, _ONE_THREAD // max(1, weights.size))
    for start in range(0, images.shape[-1], step):
        some = slice(start, start + step)
        np.matmul(weights, images[..., some], out=out[..., some])


def weigh_columns(images: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """
    `out = images @ weights.T`, in products that numpy's library computes with one thread.

    Args:
        images (`np.ndarray` of shape `(..., H, W)`): float32.
        weights (`np.ndarray` of shape `(n, W)`): For `n` columns of the result.
        out (`np.ndarray` of shape `(..., H, n)`): Written.
    """
    step = max(1, _ONE_THREAD // max(1, weights.size))
    for start in range(0, images.shape[-2], step):
        some = slice(start, start + step)
        np.matmul(images[..., some, :], weights.T, out=out[..., some, :])


def nonzero_runs(weights: np.ndarray) -> list[tuple[slice, slice, np.ndarray]]:
    """
    Cut weights with one short run of non-zeros per row into blocks of a few rows.

    Args:
        weights (`np.ndarray` of shape `(n_out, n_in)`): Rows of zeros are allowed.

    Returns:
        For each block: its rows, the inputs with non-zero weights, and the contiguous weights between both.
    """
    runs = []
    for start in range(0, len(weights), _ROWS_AT_A_TIME):
        rows = slice(start, min(start + _ROWS_AT_A_TIME, len(weights)))
        used = np.flatnonzero(weights[rows].any(axis=0))
        taken = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0)
        runs.append((rows, taken, np.ascontiguousarray(weights[rows, taken])))
    return runs


@lru_cache(maxsize=256)
def _area_runs(n_in: int, n_out: int) -> list[tuple[slice, slice, np.ndarray]]:
    return nonzero_runs(area_weights(n_in, n_out))


def fit_to_square(image: np.ndarray, fit: str) -> np.ndarray:
    """
    Pad to a centred square, or leave as is for a later resize to squash.

    Args:
        image (`np.ndarray` of shape `(..., H, W)`): Radiograph(s), 0 = dark (air).
        fit (`str`): `"pad"` adds 0 on both sides of the shorter axis (an odd pixel goes to the end); `"squash"` does
            nothing.

    Returns:
        `np.ndarray` of shape `(..., S, S)` with `S = max(H, W)`, or `image` itself.

    Raises:
        ValueError: If `fit` is neither.
    """
    check_choice("fit", fit, FIT_CHOICES)
    height, width = image.shape[-2:]
    if fit == "squash" or height == width:
        return image
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((*image.shape[:-2], side, side), dtype=image.dtype)
    square[..., top : top + height, left : left + width] = image
    return square


def make_pixel_values(
    images: np.ndarray,
    size_px: int,
    fit: str,
    lowres: int | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> np.ndarray:
    """
    Make a model's input of grey images: square -> area average (-> low resolution and back) -> normalise.

    Args:
        images (`np.ndarray` of shape `(B, H, W)`): float32 in [0, 1].
        size_px (`int`): Side of the square, in pixels.
        fit (`str`): As in [`fit_to_square`].
        lowres (`int`, *optional*): Area-reduce to this side first, then enlarge bilinearly.
        mean, std (`Sequence[float]`): Normalisation, one number per channel.

    Returns:
        `np.ndarray` of shape `(B, C, size_px, size_px)`: float32.
    """
    images = fit_to_square(images, fit)
    if lowres is None:
        images = area_resize(images, size_px, size_px)
    else:
        weights = bilinear_weights(lowres, size_px)
        # Contiguous arrays make every matrix product of a batch the same call as for a single image: same bits.
        images = weights @ area_resize(images, lowres, lowres) @ np.ascontiguousarray(weights.T)
    centre, scale = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (mean, std))
    return np.asarray((images[:, None] - centre) / scale)


def map_boxes(
    boxes: np.ndarray | Sequence[Sequence[float]],
    original_size: tuple[int, int],
    model_size: tuple[int, int],
    fit: str,
    inverse: bool = False,
) -> np.ndarray:
    """
    Map boxes from original pixels to the model's input, or back.

    Coordinates are continuous pixel edges: a box over the whole image is `(0, 0, width, height)`.

    Args:
        boxes (array of shape `(n, 4)`): `x_min, y_min, x_max, y_max`.
        original_size (`tuple[int, int]`): Height and width of the original image.
        model_size (`tuple[int, int]`): Height and width of the model's input.
        fit (`str`): `"pad"` or `"squash"`, as in the processor.
        inverse (`bool`, defaults to `False`): From model coordinates to original ones.

    Returns:
        `np.ndarray` of shape `(n, 4)`: float64, not clipped.

    Raises:
        ValueError: If the boxes have another shape or `fit` is unknown.
    """
    check_choice("fit", fit, FIT_CHOICES)
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.size == 0:
        return np.empty((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (n, 4): x_min, y_min, x_max, y_max; got shape {boxes.shape}.")
    height, width = original_size
    offset = np.zeros(4)
    if fit == "pad":
        side = max(height, width)
        # The whole pixels that fit_to_square puts before the image.
        offset += [(side - width) // 2, (side - height) // 2] * 2
        height = width = side
    scale = np.array([model_size[1] / width, model_size[0] / height] * 2)
    return np.asarray(boxes / scale - offset if inverse else (boxes + offset) * scale)


def check_choice(name: str, value: Any, choices: tuple[Any, ...], error: type[Exception] = ValueError) -> None:
    """Raise an error unless the value is one of the choices."""
    if value not in choices:
        *others, last = map(repr, choices)
        raise error(f"{name} must be {', '.join(others)} or {last}; got {value!r}.")
