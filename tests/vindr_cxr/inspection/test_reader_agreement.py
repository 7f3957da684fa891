"""Reader agreement against slow references, published numbers, and cases known by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from vindr_factories import label_row

from mlcak_hf.vindr_cxr.inspection.reader_agreement import fleiss_kappa, mean_cohen_kappa, reader_agreement
from mlcak_hf.vindr_cxr.labels import VINDR_CXR_LABELS, Reading


def slow_fleiss(ratings: list[list[int]], categories: int) -> float:
    """Fleiss' kappa by looking at every pair of votes of every image."""
    agreeing = []
    for votes in ratings:
        pairs = list(itertools.permutations(range(len(votes)), 2))
        agreeing.append(sum(votes[i] == votes[j] for i, j in pairs) / len(pairs))
    everything = [vote for votes in ratings for vote in votes]
    chance = sum((everything.count(c) / len(everything)) ** 2 for c in range(categories))
    return (np.mean(agreeing) - chance) / (1 - chance)


def slow_cohen(first: list[int], second: list[int]) -> float:
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    chance = sum(first.count(c) / len(first) * second.count(c) / len(second) for c in (0, 1))
    return (observed - chance) / (1 - chance)


@pytest.mark.parametrize("categories", [2, 4])
def test_fleiss_against_counting_pairs(categories) -> None:
    rng = np.random.default_rng(0)
    for readers in (2, 3, 5):
        ratings = rng.integers(0, categories, size=(30, readers)).tolist()
        counts = np.array([[votes.count(c) for c in range(categories)] for votes in ratings])
        assert fleiss_kappa(counts) == pytest.approx(slow_fleiss(ratings, categories), abs=1e-12)


def test_fleiss_of_a_published_table() -> None:
    """Ten subjects, fourteen raters, five categories: the usual worked example, kappa = 0.210."""
    counts = np.array([
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ])  # fmt: skip
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_at_its_ends() -> None:
    assert fleiss_kappa(np.array([[3, 0], [0, 3]])) == 1
    assert fleiss_kappa(np.array([[1, 1], [1, 1]])) == -1  # two readers who always differ
    assert fleiss_kappa(np.array([[3, 0], [3, 0]])) is None


def test_cohen_over_pairs_of_changing_readers() -> None:
    rng = np.random.default_rng(1)
    images = []
    for _ in range(80):
        team = rng.choice(4, size=3, replace=False)
        images.append({f"R{reader}": int(rng.integers(0, 2)) for reader in team})
    expected = []
    for a, b in itertools.combinations(["R0", "R1", "R2", "R3"], 2):
        both = [(image[a], image[b]) for image in images if a in image and b in image]
        expected.append(slow_cohen([x for x, _ in both], [y for _, y in both]))
    mean, pairs = mean_cohen_kappa(images)
    assert pairs == 6
    assert mean == pytest.approx(np.mean(expected), abs=1e-12)


def test_a_pair_without_a_kappa_does_not_count() -> None:
    images = [{"R1": 0, "R2": 0, "R3": 1}, {"R1": 0, "R2": 0, "R3": 0}]
    assert mean_cohen_kappa(images) == (0.0, 2)  # R1 and R2 only ever say no
    assert mean_cohen_kappa(images[1:]) == (None, 0)
    assert mean_cohen_kappa([{"R1": 1}]) == (None, 0)


def reading(reader: str, *marked: str) -> Reading:
    return Reading(reader, tuple(label_row(marked)))


def test_agreement_of_images_with_different_readers() -> None:
    images = [
        [reading("R1", "Edema"), reading("R2", "Edema"), reading("R3", "Edema")],
        [reading("R1"), reading("R2", "Edema"), reading("R4")],
        [reading("R1"), reading("R2"), reading("R3")],
        [reading("R1"), reading("R2")],
        [reading("", "ILD")],
    ]
    agreement = reader_agreement(images, VINDR_CXR_LABELS)
    assert agreement is not None
    assert (agreement.images, agreement.readers, agreement.fleiss_images) == (4, 4, 3)
    assert agreement.readers_per_image == {2: 1, 3: 3}
    assert not agreement.same_readers
    edema = agreement.labels["Edema"]
    assert (edema.some, edema.unanimous) == (2, 1)
    assert edema.fleiss == pytest.approx(slow_fleiss([[1, 1, 1], [0, 1, 0], [0, 0, 0]], 2))
    # R1-R2 on four images, R1-R3 and R2-R3 on two, R2-R4 on one where they differ; R1-R4 has no kappa.
    assert edema.cohen == pytest.approx(np.mean([slow_cohen([1, 0, 0, 0], [1, 1, 0, 0]), 1, 1, 0]))
    assert edema.cohen_pairs == 4
    assert agreement.labels["ILD"].fleiss is None  # the only reading of it stands alone
    assert agreement.labels["ILD"].some == 0


def test_one_reading_per_image_says_nothing_about_agreement() -> None:
    assert reader_agreement([[reading("")]] * 3, VINDR_CXR_LABELS) is None
    assert reader_agreement([], VINDR_CXR_LABELS) is None
