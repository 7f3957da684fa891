"""MixUp: every training image is mixed with another one, and so are their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..configuration_mlcak import MLCAKConfig
from ..errors import RecipeError
from ..probabilities import MULTI_LABEL

# So that mixing draws other numbers than the views of the same seed, epoch and index.
_STREAM = 1


class MixUpCollator:
    r"""Collate :math:`\lambda x_i + (1 - \lambda) x_j` and the same mean of their labels (Zhang et al., ICLR 2018).

    The partner j and :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)` depend on seed, epoch and index i alone, not on
    batches, workers or processes. Both images are their views of this epoch. Teachers and student see the same mixture.
    A label that is missing for one of both is missing.

    Args:
        collator ([`MLCAKCollator`]):
            Makes the views.
        dataset:
            Training rows, each with its `index`; partners are drawn from them.
        alpha (`float`):
            Above 0. At 1, the share is uniform in [0, 1]; the smaller, the closer to one of both images.
        config ([`MLCAKConfig`]):
            Config of the student. Exclusive global labels become vectors.

    Raises:
        [`RecipeError`]: When the collator has no seed or the rows cannot be drawn from.
    """

    def __init__(self, collator: Any, dataset: Any, alpha: float, config: MLCAKConfig) -> None:
        if not hasattr(collator, "seed") or not hasattr(dataset, "__len__"):
            raise RecipeError(
                f"MixUp needs an MLCAKCollator and a dataset with a length; got {type(collator).__name__} and "
                f"{type(dataset).__name__}. Use these, or set mixup_alpha to 0."
            )
        if hasattr(collator, "add_pixels"):
            raise RecipeError(
                "MixUp needs a collator that makes pixels; a DeviceViewCollator leaves them to the device. Use an "
                "MLCAKCollator, or set mixup_alpha to 0."
            )
        self.collator, self.dataset, self.alpha, self.views = collator, dataset, alpha, collator.views
        several = config.problem_type == MULTI_LABEL
        self.num_classes = None if several else len(config.global_labels)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of views and partners, in running workers too."""
        self.collator.set_epoch(epoch)

    def draw(self, index: int) -> tuple[int, float]:
        """Draw the partner of an image in this epoch, and the image's share of the mixture."""
        random = np.random.default_rng([self.collator.seed, self.collator.epoch, index, _STREAM])
        return int(random.integers(len(self.dataset))), float(random.beta(self.alpha, self.alpha))

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate rows, each with its `index`; see [`MLCAKCollator`]. Integer labels become vectors."""
        partners, shares = zip(*(self.draw(int(row["index"])) for row in rows), strict=True)
        own = self._with_vectors(self.collator(rows))
        other = self._with_vectors(self.collator([self.dataset[partner] for partner in partners]))
        return {name: value if name == "index" else _mixed(value, other[name], shares) for name, value in own.items()}

    def _with_vectors(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        labels = batch.get("labels")
        if labels is not None and not labels.is_floating_point() and self.num_classes is not None:
            one_hot = F.one_hot(labels.clamp(min=0), self.num_classes).float()
            batch["labels"] = one_hot.where(labels[:, None] >= 0, -1.0)
        return batch


def _mixed(own: Tensor, other: Tensor, shares: Sequence[float]) -> Tensor:
    share = torch.tensor(shares, dtype=torch.float32).reshape(-1, *[1] * (own.ndim - 1))
    mixed = share * own + (1 - share) * other
    # Labels; pixels of 4 axes may be negative.
    return mixed.where((own >= 0) & (other >= 0), -1.0) if own.ndim < 4 else mixed
