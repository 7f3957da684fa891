"""How far readers of the same radiographs agree. Pure statistics: no files here."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import cohen_kappa_score

from ..labels import VINDR_CXR_LABELS, Reading


@dataclass(frozen=True)
class LabelAgreement:
    """Agreement of the readers about one label.

    Args:
        some: Images that at least one reader marked.
        unanimous: Images that every reader marked.
        cohen: Cohen's kappa, the mean over the pairs of readers for whom it is defined; None where there are none.
        cohen_pairs: Number of those pairs.
        fleiss: Fleiss' kappa; None where all votes are the same.
    """

    some: int
    unanimous: int
    cohen: float | None
    cohen_pairs: int
    fleiss: float | None


@dataclass(frozen=True)
class ReaderAgreement:
    """Agreement of the readers of a set of images.

    Args:
        images: Images with at least two readers; the others say nothing about agreement.
        readers: Different readers.
        readers_per_image: Number of images by their number of readers.
        same_readers: Whether the same readers read every image. If not, each pair's Cohen's kappa is that of the images
            that both read, and Fleiss' kappa, which does not ask who gave a vote, compares readers in general.
        fleiss_images: Images in Fleiss' kappa: those with the commonest number of readers, as it needs a fixed one.
        labels: By label.
    """

    images: int
    readers: int
    readers_per_image: dict[int, int]
    same_readers: bool
    fleiss_images: int
    labels: dict[str, LabelAgreement]


def reader_agreement(images: Sequence[Sequence[Reading]], labels: Sequence[str]) -> ReaderAgreement | None:
    """Measure how far readers agree about each label.

    Args:
        images: The readings of each image.
        labels: Names of the labels that were annotated.

    Returns:
        The agreement; None where no image has two readers.
    """
    several = [readings for readings in images if len(readings) > 1]
    if not several:
        return None
    per_image = Counter(len(readings) for readings in several)
    commonest = min(count for count, number in per_image.items() if number == max(per_image.values()))
    same_number = [readings for readings in several if len(readings) == commonest]
    teams = {frozenset(reading.reader for reading in readings) for readings in several}
    agreement = {}
    for label in labels:
        column = VINDR_CXR_LABELS.index(label)
        votes = [{reading.reader: reading.votes[column] for reading in readings} for readings in several]
        yes = np.array([sum(reading.votes[column] for reading in readings) for readings in same_number])
        cohen, pairs = mean_cohen_kappa(votes)
        agreement[label] = LabelAgreement(
            some=sum(any(v.values()) for v in votes),
            unanimous=sum(all(v.values()) for v in votes),
            cohen=cohen,
            cohen_pairs=pairs,
            fleiss=fleiss_kappa(np.stack([commonest - yes, yes], axis=1)),
        )
    return ReaderAgreement(
        images=len(several),
        readers=len(frozenset().union(*teams)),
        readers_per_image=dict(sorted(per_image.items())),
        same_readers=len(teams) == 1,
        fleiss_images=len(same_number),
        labels=agreement,
    )


def mean_cohen_kappa(votes: Sequence[Mapping[str, int]]) -> tuple[float | None, int]:
    """Average Cohen's kappa over all pairs of readers, each from the images that both of them read.

    Args:
        votes: 0 or 1 by reader, for each image.

    Returns:
        The mean, and the number of pairs in it. A pair whose votes are all the same has no kappa and does not count;
        None if there is no other.
    """
    by_pair: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for image in votes:
        for pair in itertools.combinations(sorted(image), 2):
            by_pair.setdefault(pair, []).append((image[pair[0]], image[pair[1]]))
    kappas = []
    for both in by_pair.values():
        first, second = zip(*both, strict=True)
        if len({*first, *second}) > 1:
            kappas.append(float(cohen_kappa_score(first, second, labels=[0, 1])))
    return (float(np.mean(kappas)), len(kappas)) if kappas else (None, 0)


def fleiss_kappa(counts: npt.NDArray[np.int64]) -> float | None:
    """Fleiss' kappa: agreement of a fixed number of readers per image, who need not be the same, beyond chance.

    `kappa = (P - P_e) / (1 - P_e)`, with P the mean share of agreeing pairs of votes per image and P_e the sum of the
    squared shares of the categories.

    Args:
        counts: Votes of each image for each category, of shape (images, categories); all rows have the same sum n >= 2.

    Returns:
        Kappa, 1 for full agreement; None where all votes are for one category, as chance alone explains that.

    References:
        Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76, 1971.
    """
    n = counts[0].sum()
    agreeing = (counts * (counts - 1)).sum(axis=1) / (n * (n - 1))
    shares = counts.sum(axis=0) / counts.sum()
    by_chance = float((shares**2).sum())
    if by_chance == 1.0:
        return None
    return float((agreeing.mean() - by_chance) / (1.0 - by_chance))
