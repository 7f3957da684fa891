"""Label counts and agreement between readers of the same radiographs."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import cohen_kappa_score

from ..labels import VINDR_CXR_LABELS, Reading, count_votes


@dataclass(frozen=True)
class LabelAgreement:
    """Agreement of the readers on one label.

    Args:
        some (`int`):
            Images marked by at least one reader.
        unanimous (`int`):
            Images marked by every reader.
        cohen (`float`, *optional*):
            Mean of Cohen's kappa over the pairs of readers for which it is defined.
        cohen_pairs (`int`):
            Number of these pairs.
        fleiss (`float`, *optional*):
            Fleiss' kappa; undefined when all votes are the same.
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
        images (`int`):
            Images with at least two readers.
        readers (`int`):
            Number of different readers.
        readers_per_image (`dict[int, int]`):
            Number of images by their number of readers.
        same_readers (`bool`):
            Whether the same readers read every image. If not, Cohen's kappa of a pair covers the images read by both.
        fleiss_images (`int`):
            Images used for Fleiss' kappa: those with the most common number of readers, as it needs a fixed one.
        labels (`dict[str, LabelAgreement]`):
            Agreement on each label.
    """

    images: int
    readers: int
    readers_per_image: dict[int, int]
    same_readers: bool
    fleiss_images: int
    labels: dict[str, LabelAgreement]

    def summary(self) -> str:
        """Sentences for the terminal."""
        numbers = ", ".join(f"{number:,} image(s) by {count}" for count, number in self.readers_per_image.items())
        who = "the same for every image" if self.same_readers else "not the same for every image"
        excluded = self.images - self.fleiss_images
        return (
            f"{self.readers} readers, {who}; {numbers}. Cohen's kappa is the mean over all pairs of readers for which"
            " it is defined, each from the images read by both. Fleiss' kappa treats readers as interchangeable"
            + (f" and excludes {excluded:,} image(s) with another number of readers." if excluded else ".")
        )


@dataclass(frozen=True)
class LabelCounts:
    """Number of images of a source folder, and for each label those marked by most, or by any, of their readers."""

    images: int
    majority: dict[str, int]
    some: dict[str, int]


def count_labels(images: Sequence[Sequence[Reading]], labels: Sequence[str]) -> LabelCounts:
    """Count the labels of a source folder.

    Args:
        images (`Sequence[Sequence[Reading]]`):
            Readings of each image.
        labels (`Sequence[str]`):
            Labels that were annotated.
    """
    votes = [(count_votes(readings), len(readings)) for readings in images]
    majority = {label: sum(2 * yes[label] > number for yes, number in votes) for label in labels}
    some = {label: sum(yes[label] > 0 for yes, _ in votes) for label in labels}
    return LabelCounts(len(images), majority, some)


def reader_agreement(images: Sequence[Sequence[Reading]], labels: Sequence[str]) -> ReaderAgreement | None:
    """Measure the agreement between readers on each label.

    Args:
        images (`Sequence[Sequence[Reading]]`):
            Readings of each image.
        labels (`Sequence[str]`):
            Labels that were annotated.

    Returns:
        [`ReaderAgreement`] or `None`: The agreement; `None` if no image has two readers.
    """
    several = [readings for readings in images if len(readings) > 1]
    if not several:
        return None
    readers, votes = np.array([len(readings) for readings in several]), [count_votes(readings) for readings in several]
    per_image = Counter(readers.tolist())
    commonest = max(sorted(per_image), key=per_image.__getitem__)
    teams = {frozenset(reading.reader for reading in readings) for readings in several}
    agreement = {}
    for label in labels:
        yes, column = np.array([number[label] for number in votes]), VINDR_CXR_LABELS.index(label)
        cohen, pairs = mean_cohen_kappa([{r.reader: r.votes[column] for r in readings} for readings in several])
        agreement[label] = LabelAgreement(
            some=int((yes > 0).sum()),
            unanimous=int((yes == readers).sum()),
            cohen=cohen,
            cohen_pairs=pairs,
            fleiss=fleiss_kappa(np.stack([commonest - yes, yes], axis=1)[readers == commonest]),
        )
    return ReaderAgreement(
        images=len(several),
        readers=len(frozenset().union(*teams)),
        readers_per_image=dict(sorted(per_image.items())),
        same_readers=len(teams) == 1,
        fleiss_images=per_image[commonest],
        labels=agreement,
    )


def mean_cohen_kappa(votes: Sequence[Mapping[str, int]]) -> tuple[float | None, int]:
    """Average Cohen's kappa over all pairs of readers, each from the images read by both.

    Args:
        votes (`Sequence[Mapping[str, int]]`):
            For each image, the vote (0 or 1) of each reader.

    Returns:
        `tuple`: The mean, or `None` without pairs, and the number of pairs. A pair whose votes are all the same has no
        kappa and is not counted.
    """
    by_pair: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for image in votes:
        for (first, vote), (second, other) in itertools.combinations(sorted(image.items()), 2):
            by_pair[first, second].append((vote, other))
    defined = [np.array(both) for both in by_pair.values() if len(set(itertools.chain(*both))) > 1]
    kappas = [float(cohen_kappa_score(*both.T, labels=[0, 1])) for both in defined]
    return (float(np.mean(kappas)), len(kappas)) if kappas else (None, 0)


def fleiss_kappa(counts: npt.NDArray[np.int64]) -> float | None:
    """Fleiss' kappa: agreement beyond chance of a fixed number of readers per image, who need not be the same.

    `kappa = (P - P_e) / (1 - P_e)`, where P is the mean share of agreeing pairs of votes per image and P_e the sum of
    the squared shares of the categories (Fleiss, Psychological Bulletin 76, 1971).

    Args:
        counts (`np.ndarray` of shape `(images, categories)`):
            Votes for each category; all rows have the same sum n >= 2.

    Returns:
        `float` or `None`: Kappa, 1 for full agreement; `None` if all votes are for one category.
    """
    n = counts[0].sum()
    agreeing = (counts * (counts - 1)).sum(axis=1) / (n * (n - 1))
    shares = counts.sum(axis=0) / counts.sum()
    by_chance = float((shares**2).sum())
    return None if by_chance == 1.0 else float((agreeing.mean() - by_chance) / (1.0 - by_chance))
