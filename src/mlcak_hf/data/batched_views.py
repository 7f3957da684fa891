"""The pixels of many views at once, in torch on any device: those of `view_pixels`, but for rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..image_geometry_mlcak import area_weights
from .view_pixels import columns_for
from .views import View

# Ends of columns that are computed at a time, about 40 bytes each. A CPU keeps them in its cache.
_ENDS = {"cpu": 1 << 20}
_OTHER_ENDS = 1 << 25


@dataclass(frozen=True)
class DrawnViews:
    """
    The views of a batch as numbers. Worker processes make them, and a data loader can pin and move them.

    Args:
        index (`np.ndarray` of shape `(B,)`):
            Indices of the images in their dataset.
        moves (`np.ndarray` of shape `(B,)`):
            Whether a view has another geometry than the stored image.
        numbers (`torch.Tensor` of shape `(B, 10)`):
            Geometry and exposure, float32.
    """

    index: np.ndarray
    moves: np.ndarray
    numbers: Tensor

    @classmethod
    def of(cls, views: Sequence[View], index: Sequence[int]) -> DrawnViews:
        """
        Stack views.

        Args:
            views (`Sequence[View]`):
                One for each image.
            index (`Sequence[int]`):
                Indices of the images in their dataset.
        """
        matrices = np.stack([view.matrix() for view in views])
        # A turn by more than 45 degrees: the view's rows run along the image's columns.
        turned = np.abs(matrices[:, 0, 0]) < np.abs(matrices[:, 0, 1])
        of_x, of_y = np.where(turned, matrices.transpose(1, 2, 0)[::-1], matrices.transpose(1, 2, 0))
        of_both = of_x[1] / of_y[1]
        along_rows = [of_x[0] - of_both * of_y[0], of_x[2] - of_both * of_y[2], of_both]
        exposures = np.array([[view.gamma, view.contrast, view.brightness] for view in views]).T
        numbers = np.stack([*along_rows, *of_y, turned, *exposures], axis=1).astype(np.float32)
        return cls(np.asarray(index), np.array([view.moves for view in views]), torch.from_numpy(numbers))

    def __getitem__(self, chosen: Any) -> DrawnViews:
        """Return some of the views, by a slice or positions."""
        return DrawnViews(self.index[chosen], self.moves[chosen], self.numbers[chosen])

    def pin_memory(self) -> DrawnViews:
        """Copy the numbers into page-locked memory, from which a GPU copies without waiting."""
        return replace(self, numbers=self.numbers.pin_memory())

    def to(self, device: Any, non_blocking: bool = True) -> DrawnViews:
        """Move the numbers to a device."""
        return replace(self, numbers=self.numbers.to(device, non_blocking=non_blocking))


@torch.no_grad()
def batched_view_pixels(images: Tensor, views: DrawnViews, sides: Sequence[int]) -> list[Tensor]:
    """
    Make the pixels of views of several images, each for models of several sizes.

    Every pixel is within 1/255 of [`view_pixels`]; sums are rounded in another order.

    Args:
        images (`torch.Tensor` of shape `(B, S, S)`):
            float32 in [0, 1], on any device.
        views ([`DrawnViews`]):
            A view of each image, on the same device.
        sides (`Sequence[int]`):
            Sides of the models' inputs, in pixels.

    Returns:
        `list[torch.Tensor]`: float32 in [0, 1] of shape `(B, side, side)` for every side.
    """
    ends = len(images[0]) * max(columns_for(len(images[0]), side) for side in sides)
    few = max(1, _ENDS.get(images.device.type, _OTHER_ENDS) // ends)
    parts = [slice(start, start + few) for start in range(0, len(images), few)]
    made = [_pixels(images[part], views[part], sides) for part in parts]
    return [torch.cat(each) if len(each) > 1 else each[0] for each in zip(*made, strict=True)]


def _pixels(images: Tensor, views: DrawnViews, sides: Sequence[int]) -> list[Tensor]:
    numbers = views.numbers[:, :, None, None]
    along_rows, of_y, turned = numbers[:, :3], numbers[:, 3:6], numbers[:, 6]
    gamma, contrast, brightness = numbers[:, 7:].unbind(1)
    exposed = (images**gamma * contrast + brightness).clamp_(0, 1)
    still = [] if views.moves.all() else [_area_average(exposed, side) for side in sides]
    if not views.moves.any():
        return still
    rows = torch.where(turned > 0, exposed.mT, exposed)
    moved = _moved(rows, along_rows.unbind(1), of_y.unbind(1), sides)
    if not still:
        return moved
    moves = torch.from_numpy(views.moves).to(images.device)[:, None, None]
    return [torch.where(moves, *both) for both in zip(moved, still, strict=True)]


def _area_average(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] == side:
        return images
    weights = torch.tensor(area_weights(images.shape[-1], side), device=images.device)
    return weights @ images @ weights.T


def _moved(rows: Tensor, along_rows: Sequence[Tensor], of_y: Sequence[Tensor], sides: Sequence[int]) -> list[Tensor]:
    """Average over the pixels of moved views, `(B, side, side)`; see the module `view_pixels` for the method.

    `along_rows` holds the slope of the first axis, and start and slope of its offset along the second; `of_y` the row
    of the view's matrix for the second axis. Every entry has the shape (B, 1, 1).
    """
    length, device = rows.shape[-1], rows.device
    slope, start, per_row = along_rows
    columns = {side: columns_for(length, side) for side in sides}
    by_columns = {}
    for count in set(columns.values()):
        starts = start + per_row * _centres(length, device)[:, None]
        averages, values = _average_lines(rows, starts, slope, count)
        moments = (values[..., 1:] - values[..., :-1]).mT * (of_y[0] * length / (12 * count))
        by_columns[count] = averages.mT.contiguous(), moments
    pixels = []
    for side in sides:
        averages, shifts = by_columns[columns[side]]
        starts = of_y[2] + of_y[0] * _centres(columns[side], device)[:, None]
        averaged, _ = _average_lines(averages, starts, of_y[1], side, shifts)
        pixels.append(averaged.reshape(len(rows), side, -1, side).mean(dim=2).mT.clamp(0, 1))
    return pixels


def _average_lines(
    lines: Tensor, start: Tensor, slope: Tensor, count: int, shifts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Average lines over `count` intervals, as in `view_pixels`: `(B, L, n)` to `(B, L, count)`.

    Also returns the values at the ends of the intervals, `(B, L, count + 1)`.
    """
    length = lines.shape[-1]
    starts = F.pad(lines, (1, 1))  # with a dark sample at either end
    bends = F.pad(0.5 * starts.diff(dim=-1), (0, 1))
    sums = F.pad((starts + bends)[..., :-1], (1, 0)).cumsum(dim=-1)
    if shifts is not None:
        sums[..., 1:-1] += shifts
        starts[..., :-2] += shifts
        starts[..., 1:-1] -= shifts
    ends = 2 * torch.arange(count + 1, device=lines.device) / count - 1
    places = ((start + slope * ends) * (length / 2) + (length + 1) / 2).clamp_(0, length + 1)
    sample = places.long()
    places -= sample
    bend, value = bends.gather(2, sample) * places, starts.gather(2, sample)
    integrals = sums.gather(2, sample) + (bend + value) * places
    return integrals.diff(dim=-1) * (count / (slope * length)), value + 2 * bend


def _centres(n: int, device: Any) -> Tensor:
    """Centres of n pixels on an axis from -1 to 1."""
    return (2 * torch.arange(n, device=device) + 1) / n - 1
