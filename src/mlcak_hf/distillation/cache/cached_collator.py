"""A collator that reads the teachers' outputs from a cache."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .store import TeacherCache


class CachedCollator:
    """A collator that adds the cached outputs of the teachers; in epoch e it makes view e modulo V.

    Args:
        collator ([`MLCAKCollator`]):
            Makes the views; it is copied.
        cache ([`TeacherCache`]):
            Cache of the same views.
        attention (`bool`, *optional*, defaults to `True`):
            Whether attention is taught.
    """

    def __init__(self, collator: Any, cache: TeacherCache, attention: bool = True) -> None:
        # The copy shares the epoch and makes the same views, without the teachers' pixels.
        self.collator = copy.copy(collator)
        self.collator.teacher_processor = None
        self.cache, self.attention = cache, attention

    @property
    def views(self) -> Any:
        """Ranges that views are drawn from."""
        return self.collator.views

    @property
    def epoch(self) -> int:
        """Number of the view."""
        return int(self.collator.epoch)

    def set_epoch(self, epoch: int) -> None:
        """Switch to the view of an epoch, in this process and in running workers."""
        self.collator.set_epoch(epoch % self.cache.num_views)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Collate rows, each with its `index`.

        Returns:
            `dict[str, torch.Tensor]`: The collator's batch and the teachers' outputs ([`TeacherOutputs.to_batch`]).
        """
        batch: dict[str, Tensor] = self.collator(rows)
        return batch | self.cache.read([row["index"] for row in rows], self.epoch, self.attention).to_batch()
