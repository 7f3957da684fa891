"""Does the class token look at what the readers marked? Attention over patches against boxes.

Everything is in the coordinates of the model's input (pixel edges, continuous): boxes from a dataset go through
`mlcak_hf.image_processing_mlcak.map_boxes` first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import MLCAKError
from .scores import FloatArray


@dataclass(frozen=True)
class Localisation:
    """Attention against boxes, image by image; NaN where an image has no box.

    Args:
        share (`np.ndarray` of shape `(n,)`): Share of the attention over patches that lies inside the boxes.
        area (`np.ndarray` of shape `(n,)`): Share of the image that lies inside the boxes: what even attention gets.
        hit (`np.ndarray` of shape `(n,)`): Pointing game: 1 where the patch with the most attention touches a box.
        chance (`np.ndarray` of shape `(n,)`): Share of patches that touch a box: what a random patch gets.
    """

    share: FloatArray
    area: FloatArray
    hit: FloatArray
    chance: FloatArray

    @property
    def has_boxes(self) -> NDArray[np.bool_]:
        """Images that count, of shape `(n,)`."""
        return np.isfinite(self.share)

    @property
    def ratio(self) -> float:
        """Mean share over mean area: 1 is attention that ignores the boxes, more is attention drawn to them.

        A quotient of means, because the mean of quotients would be ruled by the smallest boxes. NaN without boxes.
        """
        counted = self.has_boxes
        return float(self.share[counted].mean() / self.area[counted].mean()) if counted.any() else math.nan

    @property
    def pointing(self) -> float:
        """Share of images whose most attended patch touches a box; NaN without boxes."""
        return float(self.hit[self.has_boxes].mean()) if self.has_boxes.any() else math.nan

    def take(self, rows: NDArray[np.intp]) -> Localisation:
        """The same for the chosen images."""
        return Localisation(self.share[rows], self.area[rows], self.hit[rows], self.chance[rows])


def box_coverage(
    boxes: ArrayLike,
    image_size: tuple[int, int],
    grid_size: tuple[int, int],
    readers: Sequence[str] | None = None,
    min_readers: int = 1,
) -> FloatArray:
    """Exact share of every patch that lies inside the union of the boxes.

    Args:
        boxes (array-like of shape `(boxes, 4)`): x_min, y_min, x_max, y_max in model pixels; parts outside the image
            are cut off.
        image_size (`tuple[int, int]`): Height and width of the model's input, in pixels.
        grid_size (`tuple[int, int]`): Rows and columns of patches.
        readers (`Sequence[str]`, *optional*): Who drew each box; needed for `min_readers` above 1.
        min_readers (`int`, defaults to 1): A point counts where at least so many readers have a box over it; 1 is the
            union of all readers.

    Returns:
        `np.ndarray` of shape `(rows, columns)` in [0, 1].

    Raises:
        MLCAKError: Boxes of another shape, or `min_readers` without readers.
    """
    height, width = image_size
    rows, columns = grid_size
    array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) if np.size(boxes) else np.zeros((0, 4))
    names = list(readers) if readers is not None else [""] * len(array)
    if len(names) != len(array) or (min_readers > 1 and readers is None):
        raise MLCAKError(f"expected one reader per box for min_readers={min_readers}, got {len(array)} boxes")
    array = np.clip(array, 0, [width, height, width, height])
    # The edges of boxes and patches cut the image into rectangles that are wholly inside or outside of each.
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
    readers: Sequence[Sequence[str]] | None = None,
    min_readers: int = 1,
) -> Localisation:
    """Measure attention against boxes.

    Args:
        class_attention (`np.ndarray` of shape `(n, rows, columns)`): From [`class_token_attention`].
        boxes (`Sequence` of `n` array-likes of shape `(boxes, 4)`): In model pixels, possibly none for an image.
        image_size (`tuple[int, int]`): Height and width of the model's input, in pixels.
        readers (`Sequence` of `n` sequences, *optional*): Who drew each box.
        min_readers (`int`, defaults to 1): As in [`box_coverage`].

    Returns:
        [`Localisation`]

    Raises:
        MLCAKError: Another number of boxes lists than images, or attention that is not positive in sum.
    """
    if len(class_attention) != len(boxes):
        raise MLCAKError(f"expected boxes for {len(class_attention)} images, got {len(boxes)}")
    result = np.full((4, len(boxes)), np.nan)
    for index, attention in enumerate(class_attention):
        coverage = box_coverage(
            boxes[index],
            image_size,
            (attention.shape[0], attention.shape[1]),
            readers[index] if readers is not None else None,
            min_readers,
        )
        if not coverage.any():
            continue
        total = attention.sum()
        if not total > 0:
            raise MLCAKError(f"attention over the patches of image {index} sums to {total:g}, expected more than 0")
        most = attention == attention.max()
        touched = coverage > 0
        result[:, index] = (
            (attention * coverage).sum() / total,
            coverage.mean(),
            touched[most].mean(),  # a tie counts for its share
            touched.mean(),
        )
    return Localisation(*result)
