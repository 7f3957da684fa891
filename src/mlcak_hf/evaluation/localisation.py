"""Does a model attend to what the readers marked? Maps over patches against boxes.

All coordinates are continuous pixel edges of the model's input; [`map_boxes`] maps boxes of a dataset there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray

from ..errors import MLCAKError
from ..image_geometry_mlcak import map_boxes
from .bootstrap import DrawWeights, MetricDraws, mean_draws
from .scores import FloatArray


class Localisation(NamedTuple):
    """Maps against boxes, image by image, within the radiograph; NaN for images without a box.

    Args:
        share (`np.ndarray` of shape `(n,)`):
            Share of the map on the radiograph that is inside the boxes.
        area (`np.ndarray` of shape `(n,)`):
            Share of the radiograph that is inside the boxes: the score of a uniform map.
        hit (`np.ndarray` of shape `(n,)`):
            Pointing game: 1 if the patch with the highest value touches a box.
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


def box_coverages(
    boxes: Sequence[ArrayLike], image_size: tuple[int, int], grid_size: tuple[int, int], radiographs: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Compute the shares of the patches inside boxes, and inside the radiograph, for many images.

    Args:
        boxes (`Sequence` of `n` array-likes of shape `(boxes, 4)`):
            Boxes in model pixels, possibly none for an image. Parts on the padding are cut off.
        image_size, grid_size: As in [`box_coverage`].
        radiographs (array-like of shape `(n, 4)`):
            Edges of each radiograph in the model's input, as for a box.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: Two of shape `(n, rows, columns)`.
    """
    covered, shown = np.zeros((2, len(boxes), *grid_size))
    for index, (marked, edges) in enumerate(zip(boxes, np.asarray(radiographs, dtype=np.float64), strict=True)):
        visible = np.clip(np.reshape(marked, (-1, 4)), edges[[0, 1, 0, 1]], edges[[2, 3, 2, 3]])
        covered[index], shown[index] = (box_coverage(each, image_size, grid_size) for each in (visible, edges))
    return covered, shown


def localise(maps: FloatArray, covered: FloatArray, shown: FloatArray) -> Localisation:
    """Compare maps with boxes.

    Only the radiograph counts, not the padding that makes it a square: a map is taken to be uniform within a patch.

    Args:
        maps (`np.ndarray` of shape `(n, rows, columns)`):
            Such as the class token's attention, from [`class_token_attention`].
        covered, shown (`np.ndarray` of the same shape):
            From [`box_coverages`].

    Returns:
        [`Localisation`]

    Raises:
        [`MLCAKError`]: When a map sums to 0 on its radiograph, or is not finite.
    """
    result = np.full((4, len(maps)), np.nan)
    for index, (attention, coverage, radiograph) in enumerate(zip(maps, covered, shown, strict=True)):
        if not coverage.any():
            continue
        total = (attention * radiograph).sum()
        if not (total > 0 and np.isfinite(total)):
            raise MLCAKError(f"The map of image {index} must have a positive, finite sum; got {total:g}.")
        on_radiograph, touched = radiograph > 0, coverage > 0
        most = on_radiograph & (attention == attention[on_radiograph].max())
        result[:, index] = (
            (attention * coverage).sum() / total,
            coverage.sum() / radiograph.sum(),
            touched[most].mean(),  # a tie counts for its share
            touched.sum() / on_radiograph.sum(),
        )
    return Localisation(*result)


def overlap(maps: FloatArray, covered: FloatArray, shown: FloatArray, share: float) -> FloatArray:
    """Compute the intersection over union of the boxes with the highest patches of each map.

    Args:
        maps, covered, shown: As in [`localise`].
        share (`float`):
            How many patches, as a share of those on the radiograph, rounded to at least one. It must be chosen on other
            images. If only some of several equal patches are needed, each counts in part.

    Returns:
        `np.ndarray` of shape `(n,)`: in [0, 1]; NaN for images without a box.
    """
    result = np.full(len(maps), np.nan)
    for index, (values, coverage, radiograph) in enumerate(zip(maps, covered, shown, strict=True)):
        if not coverage.any():
            continue
        visible = radiograph > 0
        count = max(1, round(share * int(visible.sum())))
        lowest = np.partition(values[visible], -count)[-count]
        above, equal = visible & (values > lowest), visible & (values == lowest)
        chosen = above + equal * (count - above.sum()) / equal.sum()
        both = (coverage * chosen).sum()
        result[index] = both / ((radiograph * chosen).sum() + coverage.sum() - both)
    return result


@dataclass(frozen=True)
class MarkedImages:
    """The boxes of the images of a split, in the model's input.

    Args:
        radiographs (`np.ndarray` of shape `(n, 4)`):
            Edges of each radiograph in the model's input, as for a box.
        boxes (`tuple` of `n` tuples):
            Finding and edges of every box of an image.
    """

    radiographs: FloatArray
    boxes: tuple[tuple[tuple[str, FloatArray], ...], ...]

    @classmethod
    def of_rows(cls, rows: Dataset, image_size: int, fit: str, image_column: str = "image") -> MarkedImages:
        """Map the boxes of all readers to the model's input.

        Args:
            rows (`Dataset` of `n` rows):
                With `boxes`, in pixels of the original, and `original_height` and `original_width`. Without these two,
                boxes are in pixels of the stored image.
            image_size (`int`):
                Side of the model's input, in pixels.
            fit (`str`):
                How the processor makes squares.
            image_column (`str`, *optional*, defaults to `"image"`):
                Column of stored images.

        Raises:
            [`MLCAKError`]: When an edge of a box is not a finite number, or edges are in the wrong order.
        """
        radiographs, marked = [], []
        for number, (boxes, original) in enumerate(_boxes_and_sizes(rows, image_column)):
            edges = [[box[edge] for edge in ("x_min", "y_min", "x_max", "y_max")] for box in boxes]
            corners = np.array(edges, dtype=np.float64).reshape(-1, 4)
            if not np.isfinite(corners).all():
                raise MLCAKError(
                    f"Boxes must have four finite edges; those of row {number} do not. Leave such boxes out."
                )
            if (corners[:, :2] > corners[:, 2:]).any():
                raise MLCAKError(
                    f"Boxes must have x_min <= x_max and y_min <= y_max; row {number} has one with the edges "
                    f"{corners[(corners[:, :2] > corners[:, 2:]).any(axis=1)][0].tolist()}. Swap them, or leave it out."
                )
            radiograph, *mapped = map_boxes(
                [[0, 0, original[1], original[0]], *edges], original, (image_size, image_size), fit
            )
            radiographs.append(radiograph)
            marked.append(tuple((box["finding"], on_model) for box, on_model in zip(boxes, mapped, strict=True)))
        return cls(np.array(radiographs), tuple(marked))

    @property
    def findings(self) -> list[str]:
        """Names of the findings that have boxes."""
        return sorted({finding for of_image in self.boxes for finding, _ in of_image})


def has_boxes(rows: Dataset) -> bool:
    """Whether a split has boxes and the sizes that they refer to."""
    return {"boxes", "original_height", "original_width"} <= set(rows.column_names)


def _boxes_and_sizes(rows: Dataset, image_column: str) -> Iterator[tuple[list[dict[str, Any]], tuple[int, int]]]:
    """The boxes of each row, and the height and width of the image that they refer to."""
    if "boxes" not in rows.column_names:
        raise MLCAKError(f"The split must have a column `boxes`; it has {', '.join(rows.column_names)}.")
    if has_boxes(rows):
        for row in rows.select_columns(["boxes", "original_height", "original_width"]):
            yield row["boxes"] or [], (row["original_height"], row["original_width"])
        return
    for row in rows.select_columns(["boxes", image_column]):
        width, height = row[image_column].size
        yield row["boxes"] or [], (height, width)


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
    marked = MarkedImages.of_rows(rows, image_size, fit)
    size, grid_size = (image_size, image_size), (class_attention.shape[1], class_attention.shape[2])
    found = {}
    for name in ("", *marked.findings):
        chosen = [[box for finding, box in of_image if name in ("", finding)] for of_image in marked.boxes]
        covered, shown = box_coverages(chosen, size, grid_size, marked.radiographs)
        localisation = localise(class_attention, covered, shown)
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
