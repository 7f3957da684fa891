"""Votes of several readers become targets: each aggregation against a hand-written expectation."""

import itertools

import pytest

from mlcak_hf.configuration_mlcak import VINDR_CXR_FINDINGS
from mlcak_hf.errors import LabelError
from mlcak_hf.vindr_cxr.labels import (
    GLOBAL_LABELS,
    VINDR_CXR_LABELS,
    Reading,
    aggregate,
    canonical_header,
    canonical_label,
    count_votes,
    parse_vote,
    resolve_annotated,
)


def reading(reader: str, *marked: str) -> Reading:
    names = marked or ("No finding",)
    return Reading(reader, tuple(int(name in names) for name in VINDR_CXR_LABELS))


def test_there_are_22_local_and_6_global_labels() -> None:
    assert len(VINDR_CXR_FINDINGS) == 22
    assert len(GLOBAL_LABELS) == 6
    assert len(set(VINDR_CXR_LABELS)) == 28


@pytest.mark.parametrize(
    ("aggregation", "edema", "abnormal"),
    [("majority", 0, 1), ("any", 1, 1), ("all", 0, 0), ("mean", 1 / 3, 2 / 3)],
)
def test_abnormal_is_taken_per_reader_before_aggregation(aggregation, edema, abnormal) -> None:
    """Two of three readers saw something, each something else: abnormal by majority, and no finding has one."""
    readings = [reading("R1", "Edema"), reading("R2", "Pneumothorax"), reading("R3")]
    votes, labels = count_votes(readings), aggregate(readings, aggregation)
    assert votes["Edema"] == votes["No finding"] == 1
    assert labels["label"] == pytest.approx(abnormal)
    assert labels["findings"]["Edema"] == labels["findings"]["Pneumothorax"] == pytest.approx(edema)
    assert labels["global_labels"]["No finding"] == pytest.approx(1 - abnormal)


@pytest.mark.parametrize("aggregation", ["majority", "any", "all", "mean"])
@pytest.mark.parametrize("num_readers", [1, 2, 3, 4, 5])
def test_every_aggregation_against_counting_by_hand(aggregation, num_readers) -> None:
    rule = {
        "majority": lambda yes, n: int(2 * yes > n),
        "any": lambda yes, n: int(yes > 0),
        "all": lambda yes, n: int(yes == n),
        "mean": lambda yes, n: yes / n,
    }[aggregation]
    for pattern in itertools.product([0, 1], repeat=num_readers):
        labels = aggregate([reading(f"R{i}", *["Edema"] * yes) for i, yes in enumerate(pattern)], aggregation)
        assert labels["findings"]["Edema"] == labels["label"] == rule(sum(pattern), num_readers)
        assert labels["global_labels"]["No finding"] == 1 - labels["label"]
        assert labels["findings"]["ILD"] == 0


def test_a_tie_is_not_a_majority() -> None:
    assert aggregate([reading("R1", "Edema"), reading("R2")])["findings"]["Edema"] == 0


def test_targets_are_integers_unless_soft() -> None:
    def targets(labels) -> list[float]:
        return [labels["label"], *labels["findings"].values(), *labels["global_labels"].values()]

    hard, soft = (aggregate([reading("R1", "Edema")], a) for a in ("majority", "mean"))
    assert all(isinstance(v, int) for v in targets(hard))
    assert all(isinstance(v, float) for v in targets(soft))


@pytest.mark.parametrize("aggregation", ["majority", "mean"])
def test_never_annotated_is_missing_not_negative(aggregation) -> None:
    readings, annotated = [reading("R1", "Edema")], resolve_annotated(["edema", "Pneumonia"])
    labels = aggregate(readings, aggregation, annotated)
    assert labels["findings"]["Edema"] == 1
    assert {v for k, v in labels["findings"].items() if k != "Edema"} == {-1}
    assert labels["global_labels"] == dict.fromkeys(GLOBAL_LABELS, -1) | {"Pneumonia": 0, "No finding": 0}
    assert count_votes(readings, annotated)["ILD"] == -1
    assert labels["label"] == 1


def test_annotated_keeps_column_order_and_no_finding() -> None:
    assert resolve_annotated(["Pneumonia", "Edema"]) == ("Edema", "Pneumonia", "No finding")
    with pytest.raises(LabelError, match="single string"):
        resolve_annotated("Edema")


def test_a_label_may_be_spelled_in_several_ways() -> None:
    assert canonical_label(" other  Disease ") == canonical_label("Other diseases") == "Other diseases"
    assert canonical_label("lung opacity") == "Lung Opacity"
    assert canonical_label("Nodule/Mass") == "Nodule/Mass"


@pytest.mark.parametrize(
    ("wrong", "near"), [("Cardiomegally", "Cardiomegaly"), ("Pleural efusion", "Pleural effusion")]
)
def test_an_unknown_label_is_refused_with_the_most_similar_one(wrong, near) -> None:
    with pytest.raises(LabelError, match=f"Unknown label '{wrong}'. Did you mean '{near}'"):
        canonical_label(wrong)


def test_a_label_is_not_matched_by_a_part_of_its_name() -> None:
    for part in ("Lung", "Pleural", "Other", "Nodule"):
        with pytest.raises(LabelError, match=f"Unknown label {part!r}"):
            canonical_label(part)
    with pytest.raises(LabelError, match="Known labels: Aortic enlargement, "):
        canonical_label("xyz")


def test_label_columns_may_have_any_order_and_either_spelling() -> None:
    header = ["image_id", *reversed(VINDR_CXR_LABELS)]
    header[header.index("Other diseases")] = "Other disease"
    assert canonical_header(header, ("image_id",), "t.csv") == ["image_id", *reversed(VINDR_CXR_LABELS)]


def test_wrong_label_columns_are_refused() -> None:
    full = ["image_id", *VINDR_CXR_LABELS]
    with pytest.raises(LabelError, match=r"t\.csv: no column 'Edema'"):
        canonical_header([c for c in full if c != "Edema"], ("image_id",), "t.csv")
    with pytest.raises(LabelError, match="no column 'rad_id'"):
        canonical_header(full, ("image_id", "rad_id"), "t.csv")
    with pytest.raises(LabelError, match=r"Unknown label 'Edemma'\. Did you mean 'Edema'"):
        canonical_header([*full, "Edemma"], ("image_id",), "t.csv")
    with pytest.raises(LabelError, match="'Other diseases' is there twice"):
        canonical_header([*full, "Other disease"], ("image_id",), "t.csv")


def test_votes_are_0_or_1() -> None:
    assert [parse_vote({"Edema": text}, "Edema") for text in ("0", "1", "1.0")] == [0, 1, 1]
    for text in ("", "2", "-1", "0.5", "yes", "nan"):
        with pytest.raises(LabelError, match="'Edema' must hold 0 or 1"):
            parse_vote({"Edema": text}, "Edema")
