"""Which groups of images (patients) a split sets aside: one rule for every dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def held_out_groups(groups: Sequence[str], fraction: float, salt: str) -> set[str]:
    """Choose whole groups that together hold about a share of the images.

    The groups are ranked by a hash of salt and group, so the choice depends neither on the order of the images nor on
    the machine, and leaving an image out moves no other group except at the border.

    Args:
        groups: The group of every image.
        fraction: Share of the images to aim at, 0 < fraction < 1; whole groups come as close as they can.
        salt: Another salt, another choice.

    Returns:
        The groups: at least one and never all of them; none if there are fewer than two.
    """
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    ranked = sorted(sizes, key=lambda group: hashlib.sha256(f"{salt}:{group}".encode()).digest())
    target, held, chosen = fraction * len(groups), 0, set[str]()
    for group in ranked[:-1]:
        if chosen and abs(held + sizes[group] - target) > abs(held - target):
            break
        chosen.add(group)
        held += sizes[group]
    return chosen
