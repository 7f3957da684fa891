"""Does the class token attend to what the readers marked? Attention over patches against boxes.

All coordinates are continuous pixel edges of the model's input; [`map_boxes`] maps boxes of a dataset there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray

from ..errors import MLCAKError
from ..image_geometry_mlcak import map_boxes
from .bootstrap import DrawWeights, MetricDraws, mean_draws
from .scores import FloatArray


class Localisation(NamedTuple):
    """Attention against boxes, image by image, within the radiograph; NaN for images without a box.

    Args:
        share (`np.ndarray` of shape `(n,)`):
            Share of the attention on the radiograph that is inside the boxes.
        area (`np.ndarray` of shape `(n,)`):
            Share of the radiograph that is inside the boxes: the score of uniform attention.
        hit (`np.ndarray` of shape `(n,)`):
            Pointing game: 1 if the patch with the most attention touches a box.
        chance (`np.ndarray` of shape `(n,)`):
            Share of the patches that touch a box: the score of a random patch.
    """

    share: FloatArray
    area: FloatArray
    hit: FloatArray
    chance: FloatArray

    def take(self, rows: NDArray[np.intp]) -> Localisation:
        """Select images, in the order of `rows`."""
        return Localisation(*(values[rows] for values in self))


def box_coverage(boxes: ArrayLike, image_size: tuple[int, int], grid_size: tuple[int, int]) -> FloatArray:
    """Compute the exact share of every patch that is inside the union of the boxes.

    Args:
        boxes (array-like of shape `(boxes, 4)`):
            x_min, y_min, x_max, y_max in model pixels. Parts outside the image are cut off.
        image_size (`tuple[int, int]`):
            Height and width of the model's input, in pixels.
        grid_size (`tuple[int, int]`):
            Rows and columns of patches.

    Returns:
        `np.ndarray` of shape `(rows, columns)`: shares in [0, 1].
    """
    height, width = image_size
    array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).clip(0, [width, height, width, height])
    # The edges of boxes and patches divide the image into rectangles, each entirely inside or outside of every box.
    y_patches, x_patches = (np.linspace(0, side, n + 1) for side, n in zip(image_size, grid_size, strict=True))
    y, x = np.unique([*y_patches, *array[:, [1, 3]].flat]), np.unique([*x_patches, *array[:, [0, 2]].flat])
    y_centres, x_centres = (y[1:] + y[:-1]) / 2, (x[1:] + x[:-1]) / 2
    inside_y = (y_centres > array[:, [1]]) & (y_centres < array[:, [3]])
    inside_x = (x_centres > array[:, [0]]) & (x_centres < array[:, [2]])
    areas = (inside_y[:, :, None] & inside_x[:, None, :]).any(axis=0) * np.diff(y)[:, None] * np.diff(x)
    by_row = np.add.reduceat(areas, np.searchsorted(y, y_patches[:-1]), axis=0)
    covered = np.add.reduceat(by_row, np.searchsorted(x, x_patches[:-1]), axis=1)
    return np.asarray(covered / (y_patches[1] * x_patches[1]))


def localise(
    class_attention: FloatArray, boxes: Sequence[ArrayLike], image_size: tuple[int, int], radiographs: ArrayLike
) -> Localisation:
    """Compare attention with boxes.

    Only the radiograph counts, not the padding that makes it a square: attention is taken to be uniform within a patch.

    Args:
        class_attention (`np.ndarray` of shape `(n, rows, columns)`):
            From [`class_token_attention`].
        boxes (`Sequence` of `n` array-likes of shape `(boxes, 4)`):
            Boxes in model pixels, possibly none for an image.
        image_size (`tuple[int, int]`):
            Height and width of the model's input, in pixels.
        radiographs (array-like of shape `(n, 4)`):
            Edges of each radiograph in the model's input, as for a box.

    Returns:
        [`Localisation`]

    Raises:
        [`MLCAKError`]: When the attention on a radiograph sums to 0.
    """
    result = np.full((4, len(boxes)), np.nan)
    framed = zip(class_attention, boxes, np.asarray(radiographs, dtype=np.float64), strict=True)
    for index, (attention, marked, edges) in enumerate(framed):
        visible = np.clip(np.reshape(marked, (-1, 4)), edges[[0, 1, 0, 1]], edges[[2, 3, 2, 3]])
        coverage, radiograph = (box_coverage(each, image_size, attention.shape) for each in (visible, edges))
        if not coverage.any():
            continue
        total = (attention * radiograph).sum()
        if not total > 0:
            raise MLCAKError(f"Attention over image {index} must have a positive sum; got {total:g}.")
        shown, touched = radiograph > 0, coverage > 0
        most = shown & (attention == attention[shown].max())
        result[:, index] = (
            (attention * coverage).sum() / total,
            coverage.sum() / radiograph.sum(),
            touched[most].mean(),  # a tie counts for its share
            touched.sum() / shown.sum(),
        )
    return Localisation(*result)


def attention_on_boxes(
    class_attention: FloatArray, rows: Dataset, image_size: int, fit: str
) -> dict[str, Localisation] | None:
    """Compare attention with the boxes of all readers: together, and finding by finding.

    Args:
        class_attention (`np.ndarray` of shape `(n, rows, columns)`):
            From [`class_token_attention`].
        rows (`Dataset` of `n` rows):
            With `boxes`, `original_height` and `original_width`.
        image_size (`int`):
            Side of the model's input, in pixels.
        fit (`str`):
            How the processor makes squares.

    Returns:
        `dict[str, Localisation]`: By finding, all boxes together under `""`; `None` if there are no boxes.
    """
    size = (image_size, image_size)
    edges = ("x_min", "y_min", "x_max", "y_max")
    marked: list[list[tuple[str, FloatArray]]] = []
    radiographs = []
    for row in rows.select_columns(["boxes", "original_height", "original_width"]):
        original = (row["original_height"], row["original_width"])
        boxes = [[0, 0, original[1], original[0]], *([box[edge] for edge in edges] for box in row["boxes"] or ())]
        radiograph, *mapped = map_boxes(boxes, original, size, fit)
        radiographs.append(radiograph)
        marked.append([(box["finding"], on_model) for box, on_model in zip(row["boxes"] or (), mapped, strict=True)])
    found = {}
    for name in ("", *sorted({finding for of_image in marked for finding, _ in of_image})):
        chosen = [[box for finding, box in of_image if name in ("", finding)] for of_image in marked]
        localisation = localise(class_attention, chosen, size, radiographs)
        if np.isfinite(localisation.share).any():
            found[name] = localisation
    return found or None


def attention_draws(found: Mapping[str, Localisation], weights: DrawWeights) -> dict[str, MetricDraws]:
    """Compute the metrics of attention on boxes.

    Args:
        found (`Mapping[str, Localisation]`):
            From [`attention_on_boxes`].
        weights (`np.ndarray` of shape `(n, draws)`):
            From [`draw_weights`].

    Returns:
        `dict[str, MetricDraws]`: For all boxes together, and with `/<finding>` for those of each finding:
        `attention_ratio`, the mean share over the mean area (1 for attention that ignores the boxes; the smallest boxes
        would dominate a mean of ratios), `pointing_game` and `pointing_game_chance`.
    """
    result = {}
    for name, each in found.items():
        share, area, hit, chance = (mean_draws(values[:, None], weights) for values in each)
        suffix = f"/{name}" if name else ""
        result[f"attention_ratio{suffix}"] = MetricDraws(share.value / area.value, share.draws / area.draws)
        result[f"pointing_game{suffix}"] = hit
        result[f"pointing_game_chance{suffix}"] = MetricDraws(chance.value)
    return result
