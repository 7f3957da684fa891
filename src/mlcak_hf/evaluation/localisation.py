"""Does the class token attend to what the readers marked? Attention over patches against boxes.

All coordinates are continuous pixel edges of the model's input; [`map_boxes`] maps boxes of a dataset there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray

from ..errors import MLCAKError
from ..image_geometry_mlcak import map_boxes
from .bootstrap import DrawWeights, MetricDraws, mean_draws
from .scores import FloatArray


@dataclass(frozen=True)
class Localisation:
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

    @property
    def has_boxes(self) -> NDArray[np.bool_]:
        """Which images have boxes, of shape `(n,)`."""
        return np.isfinite(self.share)

    @property
    def ratio(self) -> float:
        """Mean share over mean area: 1 for attention that ignores the boxes. NaN without boxes.

        A ratio of means, because the smallest boxes would dominate a mean of ratios.
        """
        counted = self.has_boxes
        return float(self.share[counted].mean() / self.area[counted].mean()) if counted.any() else math.nan

    @property
    def pointing(self) -> float:
        """Share of images whose most attended patch touches a box; NaN without boxes."""
        return float(self.hit[self.has_boxes].mean()) if self.has_boxes.any() else math.nan

    def arrays(self) -> FloatArray:
        """Stack the four arrays, to shape `(4, n)`."""
        return np.stack([self.share, self.area, self.hit, self.chance])

    @classmethod
    def of(cls, arrays: FloatArray) -> Localisation:
        """Make one of what [`~Localisation.arrays`] returned."""
        return cls(*arrays)

    def take(self, rows: NDArray[np.intp]) -> Localisation:
        """Select images, in the order of `rows`."""
        return Localisation.of(self.arrays()[:, rows])


def box_coverage(
    boxes: ArrayLike,
    image_size: tuple[int, int],
    grid_size: tuple[int, int],
    readers: Sequence[str] | None = None,
    min_readers: int = 1,
) -> FloatArray:
    """Compute the exact share of every patch that is inside the union of the boxes.

    Args:
        boxes (array-like of shape `(boxes, 4)`):
            x_min, y_min, x_max, y_max in model pixels. Parts outside the image are cut off.
        image_size (`tuple[int, int]`):
            Height and width of the model's input, in pixels.
        grid_size (`tuple[int, int]`):
            Rows and columns of patches.
        readers (`Sequence[str]`, *optional*):
            Reader who drew each box; required if `min_readers` is above 1.
        min_readers (`int`, *optional*, defaults to 1):
            Number of readers that must have marked a point; 1 is the union of all readers.

    Returns:
        `np.ndarray` of shape `(rows, columns)`: shares in [0, 1].

    Raises:
        [`MLCAKError`]: When `min_readers` is above 1 without one reader per box.
    """
    height, width = image_size
    rows, columns = grid_size
    array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    names = list(readers) if readers is not None else [""] * len(array)
    if len(names) != len(array) or (min_readers > 1 and readers is None):
        raise MLCAKError(
            f"`readers` must name one reader per box for min_readers={min_readers}; got {len(array)} boxes."
        )
    array = np.clip(array, 0, [width, height, width, height])
    # The edges of boxes and patches divide the image into rectangles, each entirely inside or outside of every box.
    y_patches, x_patches = np.linspace(0, height, rows + 1), np.linspace(0, width, columns + 1)
    y_edges = np.unique(np.concatenate([y_patches, array[:, 1], array[:, 3]]))
    x_edges = np.unique(np.concatenate([x_patches, array[:, 0], array[:, 2]]))
    y_centres, x_centres = (y_edges[1:] + y_edges[:-1]) / 2, (x_edges[1:] + x_edges[:-1]) / 2
    votes = np.zeros((len(y_centres), len(x_centres)), dtype=np.int64)
    for reader in sorted(set(names)):
        marked = np.zeros(votes.shape, dtype=bool)
        for x_min, y_min, x_max, y_max in array[[name == reader for name in names]]:
            inside_y = (y_centres > y_min) & (y_centres < y_max)
            inside_x = (x_centres > x_min) & (x_centres < x_max)
            marked |= inside_y[:, None] & inside_x[None, :]
        votes += marked
    areas = (votes >= min_readers) * np.diff(y_edges)[:, None] * np.diff(x_edges)[None, :]
    y_index = np.clip(np.searchsorted(y_patches, y_centres) - 1, 0, rows - 1)
    x_index = np.clip(np.searchsorted(x_patches, x_centres) - 1, 0, columns - 1)
    covered = np.zeros((rows, columns))
    np.add.at(covered, (y_index[:, None], x_index[None, :]), areas)
    return covered / (height / rows * width / columns)


def localise(
    class_attention: FloatArray,
    boxes: Sequence[ArrayLike],
    image_size: tuple[int, int],
    radiographs: Sequence[ArrayLike] | None = None,
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
        radiographs (`Sequence` of `n` array-likes of shape `(4,)`, *optional*):
            Edges of the radiograph in the model's input, as for a box. Defaults to the whole input.

    Returns:
        [`Localisation`]

    Raises:
        [`MLCAKError`]: When the number of lists of boxes is wrong, or the attention on a radiograph sums to 0.
    """
    if len(class_attention) != len(boxes):
        raise MLCAKError(f"There must be boxes for {len(class_attention)} images; got {len(boxes)}.")
    whole = (0.0, 0.0, float(image_size[1]), float(image_size[0]))
    result = np.full((4, len(boxes)), np.nan)
    for index, attention in enumerate(class_attention):
        edges = np.asarray(whole if radiographs is None else radiographs[index], dtype=np.float64)
        grid = (attention.shape[0], attention.shape[1])
        marked = np.asarray(boxes[index], dtype=np.float64).reshape(-1, 4)
        if not len(marked):
            continue
        coverage = box_coverage(np.clip(marked, edges[[0, 1, 0, 1]], edges[[2, 3, 2, 3]]), image_size, grid)
        if not coverage.any():
            continue
        radiograph = box_coverage(edges[None], image_size, grid)
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
    return Localisation.of(result)


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
    boxes: list[list[tuple[str, FloatArray]]] = []
    radiographs = []
    for row in rows.select_columns(["boxes", "original_height", "original_width"]):
        original = (row["original_height"], row["original_width"])
        radiographs.append(map_boxes([[0, 0, original[1], original[0]]], original, size, fit)[0])
        marked = [(box["finding"], [box[edge] for edge in ("x_min", "y_min", "x_max", "y_max")])
                  for box in row["boxes"] or ()]  # fmt: skip
        mapped = map_boxes([box for _, box in marked], original, size, fit)
        boxes.append([(finding, box) for (finding, _), box in zip(marked, mapped, strict=True)])
    found = {}
    for name in ("", *sorted({finding for of_image in boxes for finding, _ in of_image})):
        chosen = [[box for finding, box in of_image if name in ("", finding)] for of_image in boxes]
        localisation = localise(class_attention, chosen, size, radiographs)
        if localisation.has_boxes.any():
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
        `dict[str, MetricDraws]`: `attention_ratio`, `pointing_game` and `pointing_game_chance` for all boxes together,
        and `attention_ratio/<finding>` etc. for the boxes of each finding.
    """
    result = {}
    for name, each in found.items():
        suffix = f"/{name}" if name else ""
        share, area = (mean_draws(values, weights) for values in (each.share, each.area))
        result[f"attention_ratio{suffix}"] = MetricDraws(each.ratio, share / area)
        result[f"pointing_game{suffix}"] = MetricDraws(each.pointing, mean_draws(each.hit, weights))
        result[f"pointing_game_chance{suffix}"] = MetricDraws(float(np.nanmean(each.chance)))
    return result
