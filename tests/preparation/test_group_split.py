"""One rule for validation: the same patients from a folder of VinDr-CXR and from any other dataset."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from mlcak_hf.data.columns import DatasetColumns
from mlcak_hf.data.sources import split_rows
from mlcak_hf.preparation.group_split import held_out_groups, split_by_group
from mlcak_hf.vindr_cxr.vindr_folder import VinDrRecord


def test_published_splits_stay_as_they_are() -> None:
    """Chosen before by the rule of VinDr-CXR; another choice would test a trained model on images it has seen."""
    groups = [f"p{n % 7}" for n in range(31)]
    assert held_out_groups(groups, 0.15, "0") == {"p2"}
    assert held_out_groups(groups, 0.4, "3") == {"p0", "p1", "p3"}


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("fraction", [0.01, 0.15, 0.5, 0.99])
def test_both_ways_of_loading_set_the_same_patients_aside(seed, fraction) -> None:
    groups = [f"p{g}" for g in np.random.default_rng(seed).integers(0, 30, size=200)]
    rows = Dataset.from_dict({"patient": groups})
    train, validation = split_rows(rows, DatasetColumns(group="patient"), fraction, seed)
    records = [VinDrRecord(f"i{n}", "", group) for n, group in enumerate(groups)]
    split = split_by_group(records, fraction, str(seed), "validation_fraction")
    for ours, theirs in zip((train, validation), split, strict=True):
        assert ours["patient"][:] == [record.group for record in theirs]
    assert len(train)
    assert len(validation)


def test_groups_come_as_close_to_the_fraction_as_they_can() -> None:
    groups = [f"p{n}" for n in range(10)] * 10
    sizes = [10 * len(held_out_groups(groups, fraction, "0")) for fraction in (0.001, 0.14, 0.16, 0.999)]
    assert sizes == [10, 10, 20, 90]


def test_one_group_cannot_be_divided() -> None:
    assert held_out_groups(["p"] * 5, 0.5, "0") == held_out_groups([], 0.5, "0") == set()
