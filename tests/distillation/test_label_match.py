"""Logits of a teacher with other labels become those of the student, by name."""

import math

import pytest
import torch

from mlcak_hf.distillation.compatibility import LabelMatch, LabelNames

SEVERAL = "multi_label_classification"
LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])


def logit(p):
    return torch.log(p) - torch.log1p(-p)


def test_classes_of_a_softmax_are_those_of_the_teacher_in_the_students_order():
    match = LabelMatch(LabelNames(("Normal", "Viral", "Bacterial")), LabelNames(("Bacterial", "Normal")))
    logits, local = match(LOGITS)
    torch.testing.assert_close(logits, LOGITS[:, [2, 0]])
    given = LOGITS.softmax(1)[:, [2, 0]]
    torch.testing.assert_close(logits.softmax(1), given / given.sum(1, keepdim=True), msg="given one of both")
    assert local.shape == (2, 0)


def test_a_finding_is_taught_the_log_odds_of_a_class():
    match = LabelMatch(LabelNames(("Normal", "Viral", "Bacterial")), LabelNames(("A", "B"), ("Viral", "Edema")))
    _, local = match(LOGITS)
    torch.testing.assert_close(local[:, 0], logit(LOGITS.softmax(1)[:, 1]))
    assert (match.local_known, match.global_known) == ([True, False], [False, False])
    assert not local[:, 1].any()


def test_two_exclusive_labels_are_taught_by_one_log_odds():
    match = LabelMatch(LabelNames(("Edema", "Abnormal"), (), SEVERAL), LabelNames(("Normal", "Abnormal"), ("Edema",)))
    logits, local = match(LOGITS[:, :2])
    torch.testing.assert_close(logits.softmax(1)[:, 1], LOGITS[:, 1].sigmoid())
    torch.testing.assert_close(logits.sum(1), torch.zeros(2), msg="centred")
    torch.testing.assert_close(local[:, 0], LOGITS[:, 0])


def test_exclusive_labels_are_taught_by_independent_ones_in_proportion():
    match = LabelMatch(LabelNames(("A", "B", "C"), (), SEVERAL), LabelNames(("C", "A", "B")))
    p = LOGITS.sigmoid()[:, [2, 0, 1]]
    torch.testing.assert_close(match(LOGITS)[0].softmax(1), p / p.sum(1, keepdim=True))


def test_independent_labels_are_taught_one_by_one():
    match = LabelMatch(LabelNames(("A", "B", "C"), (), SEVERAL), LabelNames(("D", "C", "A"), (), SEVERAL))
    logits, _ = match(LOGITS)
    assert match.global_known == [False, True, True]
    torch.testing.assert_close(logits, torch.stack([torch.zeros(2), LOGITS[:, 2], LOGITS[:, 0]], 1))


def test_a_finding_with_the_name_of_a_global_label_has_its_own_logit():
    both = LabelNames(("Normal", "Pneumonia"), ("Pneumonia",))
    logits, local = LabelMatch(both, both)(LOGITS)
    torch.testing.assert_close(logits, LOGITS[:, :2])
    torch.testing.assert_close(local, LOGITS[:, 2:])


@pytest.mark.parametrize("known", [("Normal",), ("Normal", "Viral", "Fungal")])
def test_three_exclusive_labels_are_taught_only_together(known):
    match = LabelMatch(LabelNames(known, (), SEVERAL), LabelNames(("Normal", "Viral", "Bacterial")))
    assert match.global_known == [False] * 3
    assert not match(torch.ones(2, len(known)))[0].any()


def test_extreme_logits_stay_finite():
    match = LabelMatch(LabelNames(("A", "B")), LabelNames(("A", "B"), ("B",), SEVERAL))
    logits, local = match(torch.tensor([[1e4, -1e4]]))
    assert torch.isfinite(logits).all()
    assert math.isclose(local.item(), -2e4)
