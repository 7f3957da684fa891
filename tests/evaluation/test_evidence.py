"""The record of one model on one dataset against values worked out by hand, and the report that is made of it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mlcak_hf import MLCAKConfig
from mlcak_hf.errors import MLCAKError, RecipeError
from mlcak_hf.evaluation.arguments import overlapping_splits
from mlcak_hf.evaluation.bootstrap import draw_weights, group_indices
from mlcak_hf.evaluation.evidence.decision_points import (
    ChosenThreshold,
    measure_points,
    predictive_values,
    thresholds_chosen_here,
    thresholds_of_model,
)
from mlcak_hf.evaluation.evidence.image_pass import ImagePass
from mlcak_hf.evaluation.evidence.label_curves import calibrate_label, draw_curves
from mlcak_hf.evaluation.evidence.measure import Measurement, measure, typical_images, worst_errors
from mlcak_hf.evaluation.evidence.pictures import Pictures
from mlcak_hf.evaluation.evidence.record import Evidence, InputQuality, load_results
from mlcak_hf.evaluation.evidence.requirements import Requirement, failed_requirements
from mlcak_hf.evaluation.evidence.self_check import SelfCheck
from mlcak_hf.evaluation.evidence.subgroups import measure_subgroups, values_of_column
from mlcak_hf.evaluation.explanations.map_report import MapReport, MapScore, Measured
from mlcak_hf.evaluation.explanations.measurement import FLOORS
from mlcak_hf.evaluation.predictions import ModelPredictions
from mlcak_hf.evaluation.report.claim_checklist import claim_items
from mlcak_hf.evaluation.report.html_figures import report_figures
from mlcak_hf.evaluation.report.html_page import render, write_evidence
from mlcak_hf.evaluation.report.verdict import judge
from mlcak_hf.evaluation.scores import global_scores, local_scores
from mlcak_hf.probabilities import probabilities
from mlcak_hf.trust.operating_points import LabelPoints, OperatingPoints, PointTargets

FACTS = {
    "model": "student", "backbone": "vit", "layers": 3, "parameters": 1000, "image_size_px": 28, "fit": "pad",
    "voi": "dicom", "lowres_px": None, "global_labels": ["Normal", "Abnormal"], "trained": {}, "label_column": "label",
    "group_column": "group", "preparation": {}, "software": {"torch": "2.0"},
}  # fmt: skip
CHECK = SelfCheck(0, 0.3, "0" * 64, {"global/Normal": 0.4, "global/Abnormal": 0.6})


def predictions(n=300, skill=2.0, bias=0.0, trained_on=0, present=0.4):
    """A model whose probabilities are calibrated for bias 0: log odds are those of two normal distributions."""
    rng = np.random.default_rng(3)
    labels = (rng.random(n) < present).astype(int)
    x = rng.normal(size=n) + skill * labels
    logits = skill * x - skill**2 / 2 + np.log(max(present, 0.01) / (1 - present)) + bias
    findings = np.stack([labels * (rng.random(n) < 0.5), np.arange(n) < 4], axis=1).astype(int)
    return ModelPredictions(
        name="student",
        image_ids=[f"image-{row}" for row in range(n)],
        global_task=global_scores(probabilities(logits[:, None])[:, 0], labels),
        local_task=local_scores(rng.random((n, 2)), findings, ("Edema", "Rare")),
        groups=[f"patient-{row // 2}" for row in range(n)],
        details={"trained_on": {"evaluated": trained_on}, "weights": "0" * 64, "image_size_px": 28},
    )


def evidence_of(model, refused=0, subgroups=None, shift=0.0, **wanted):
    rows = np.arange(0, len(model), 2)
    shifted = model.global_task.scores[rows] * (1 - shift) + shift * np.random.default_rng(0).random((len(rows), 1))
    images = ImagePass(InputQuality(refused, {}, {"noise": refused} if refused else {}), rows, {"blur": shifted})
    wanted = {"n_draws": 200, "context": {"dataset": "d", "split": "test", "images": "the split test"}} | wanted
    return measure(model, images, CHECK, Measurement(subgroups=subgroups or {}, facts=FACTS, **wanted))


@pytest.fixture(scope="module")
def evidence():
    sides = ["left" if row % 3 else "right" for row in range(300)]
    return evidence_of(predictions(), subgroups={"side": sides})


def test_predictive_values_follow_from_counting_1000_patients():
    # 50 of 1,000 are ill; 40 are found; 95 of the 950 others are flagged too.
    ppv, npv = predictive_values(0.8, 0.9, 0.05)
    assert ppv == pytest.approx(40 / 135)
    assert npv == pytest.approx(855 / 865)
    assert np.isnan(predictive_values(0.0, 1.0, 0.05)[0]), "no image is positive"


def test_net_benefit_counts_true_positives_minus_false_ones_at_the_odds_of_the_threshold():
    scores, labels = np.array([0.1, 0.3, 0.6, 0.7, 0.9]), np.array([0, 1, 0, 1, 1])
    curves = draw_curves(scores, labels)
    at = dict(zip(curves.threshold, zip(curves.net_benefit, curves.net_benefit_of_all, strict=True), strict=True))
    assert at[0.5] == pytest.approx((2 / 5 - 1 / 5, 3 / 5 - 2 / 5))
    assert at[0.2] == pytest.approx((3 / 5 - 1 / 5 * 0.25, 3 / 5 - 2 / 5 * 0.25))
    # Where acting on everyone is as good as acting on no one, the threshold is the prevalence.
    named = draw_curves(scores, labels, prevalence=0.25)
    assert named.net_benefit_of_all[named.threshold.index(0.25)] == pytest.approx(0, abs=1e-9)


def test_net_benefit_at_a_named_prevalence_is_that_of_images_with_this_prevalence():
    """Each of two healthy images stands for three, so that two of eight have the label."""
    scores, labels = np.array([0.3, 0.4, 0.6, 0.9]), np.array([0, 1, 0, 1])
    odds = scores / (1 - scores) / 3  # by Bayes' rule
    acted_on, present = odds / (1 + odds), np.repeat([0, 1, 0, 1], [3, 1, 3, 1])
    repeated = np.repeat(acted_on, [3, 1, 3, 1])
    curves = draw_curves(scores, labels, prevalence=2 / 8)
    for threshold, found in zip(curves.threshold, curves.net_benefit, strict=True):
        flagged = repeated >= threshold
        harm = threshold / (1 - threshold)
        expected = (flagged & (present == 1)).sum() / 8 - harm * (flagged & (present == 0)).sum() / 8
        assert found == pytest.approx(expected, abs=1e-5)


def test_curves_end_where_every_curve_ends():
    task = predictions().global_task
    curves = draw_curves(*task.column(0))
    assert (curves.false_positive_rate[0], curves.sensitivity[0]) == (0, 0)
    assert (curves.false_positive_rate[-1], curves.sensitivity[-1]) == (1, 1)
    area = np.trapezoid(curves.sensitivity, curves.false_positive_rate)
    assert area == pytest.approx(roc_auc_score(*task.column(0)[::-1]), abs=0.005)
    assert len(curves.precision) <= 200


def test_thresholds_are_measured_with_intervals_and_say_where_they_were_chosen():
    task, groups = predictions().global_task, predictions().groups
    (scores, labels), weights = task.column(0), draw_weights(groups, 200)
    chosen = [*thresholds_chosen_here(scores, labels), ChosenThreshold("fixed", 0.5)]
    specific, sensitive, fixed = measure_points("Abnormal", scores, labels, weights, chosen, 0.05)
    assert (specific.chosen_here, sensitive.chosen_here, fixed.chosen_here) == (True, True, False)
    assert specific.specificity.value == pytest.approx(0.9, abs=0.01)
    assert sensitive.sensitivity.value == pytest.approx(0.9, abs=0.01)
    flagged = scores >= 0.5
    assert fixed.sensitivity.value == pytest.approx(flagged[labels == 1].mean())
    expected = predictive_values(flagged[labels == 1].mean(), 1 - flagged[labels == 0].mean(), 0.05)
    assert (fixed.ppv.value, fixed.npv.value) == pytest.approx(expected)
    assert fixed.ppv.interval.low < fixed.ppv.value < fixed.ppv.interval.high


def test_a_threshold_that_nobody_reaches_has_no_ppv():
    scores, labels = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0, 1, 0, 1])
    (point,) = measure_points("x", scores, labels, draw_weights("abcd", 50), [ChosenThreshold("r", 0.9)], 0.5)
    assert point.ppv is None
    assert point.npv.value == pytest.approx(0.5)


def test_subgroups_are_measured_alone_and_small_ones_are_listed_without_a_number():
    model = predictions(60)
    sides = np.array(["left"] * 40 + ["right"] * 18 + [None, ""], dtype=object)
    groups, weights = group_indices(model.groups), draw_weights(model.groups, 100)
    left, right, unknown = measure_subgroups(model.global_task, {"side": sides.tolist()}, groups, weights)
    scores, labels = model.global_task.column(0)
    assert left.auroc.value == pytest.approx(roc_auc_score(labels[:40], scores[:40]))
    assert (left.images, left.patients, left.present) == (40, 20, int(labels[:40].sum()))
    assert right.auroc is None
    assert right.left_out == "fewer than 10 patients in a class"
    assert (unknown.value, unknown.images, unknown.patients) == ("unknown", 2, 1)


def test_many_numbers_are_divided_at_their_quartiles():
    named = values_of_column([*range(100), None, float("nan")])
    assert sorted(set(named)) == [
        "0 to below 24.75",
        "24.75 to below 49.5",
        "49.5 to below 74.25",
        "74.25 to 99",
        "unknown",
    ]
    assert [named.count(name) for name in sorted(set(named))] == [25, 25, 25, 25, 2]
    assert values_of_column([1, 2, 1]) == ["1", "2", "1"]


def test_the_worst_errors_are_the_most_confident_ones():
    task = global_scores([0.9, 0.1, 0.6, 0.2, 0.8, 0.4], [0, 0, 0, 1, 1, 1])
    found = [(error.row, error.present, error.score) for error in worst_errors(task, 2)]
    assert found == [(0, False, 0.9), (2, False, 0.6), (3, True, 0.2), (5, True, 0.4)]


def test_typical_images_are_the_correct_ones_with_the_median_score():
    task = global_scores([0.1, 0.2, 0.3, 0.9, 0.6, 0.7, 0.4], [0, 0, 0, 0, 1, 1, 1])
    found = [(image.row, image.present, image.score) for image in typical_images(task)]
    assert found == [(1, False, 0.2), (4, True, 0.6)]
    assert typical_images(global_scores([0.9, 0.1], [0, 1])) == ()


def test_patients_who_are_also_in_the_training_split_are_a_reservation():
    model = predictions(800)
    shared = {"dataset": "d", "split": "test", "images": "the split test", "shared_patients": 12}
    verdict = judge(evidence_of(model, context=shared))
    assert verdict.answer == "fits with reservations"
    assert "12 of the 400 patients are also in the split `train` of this dataset" in verdict.reasons[-1]
    assert judge(evidence_of(model, context=shared | {"shared_patients": 0})).answer == "fits"


def test_the_calibration_error_of_a_calibrated_model_is_within_its_floor():
    for bias, within in ((0.0, True), (1.5, False)):
        found = calibrate_label(*predictions(1000, bias=bias).global_task.column(0))
        assert (found.error <= found.floor.percentile_95) == within
        assert found.floor.mean < found.floor.percentile_95
        assert found.brier_of_rate == pytest.approx(found.observed * (1 - found.observed))


def test_the_change_under_a_shift_is_that_of_the_same_images(evidence):
    (same,) = evidence.shifts
    assert same.difference.value == 0
    assert (same.difference.interval.low, same.difference.interval.high) == (0, 0)
    (noisy,) = evidence_of(predictions(), shift=0.9).shifts
    task, rows = predictions().global_task, np.arange(0, 300, 2)
    before = roc_auc_score(task.labels[rows, 0], task.scores[rows, 0])
    assert noisy.difference.value == pytest.approx(noisy.auroc.value - before)
    assert noisy.difference.interval.high < 0


def test_the_record_comes_back_whole(evidence, tmp_path):
    evidence.save(tmp_path / "evaluation.json")
    assert Evidence.load(tmp_path) == evidence == load_results(tmp_path / "evaluation.json")
    assert SelfCheck.load(tmp_path / "evaluation.json") == CHECK
    evidence.comparison.to_json(tmp_path / "comparison.json")
    assert load_results(tmp_path / "comparison.json") == evidence.comparison
    with pytest.raises(MLCAKError, match=r"evaluation\.json of format 2"):
        Evidence.load(tmp_path / "comparison.json")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(MLCAKError, match="is not the record of an evaluation"):
        Evidence.load(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("changes", "answer", "reason"),
    [
        ({"n": 800}, "fits", "It separates the classes well"),
        ({"n": 800, "bias": 2.0}, "fits with reservations", "Its probabilities are too high"),
        ({"n": 800, "skill": 1.1}, "fits with reservations", "interval is below 0.8"),
        ({"n": 800, "skill": 0.4}, "does not fit", "It separates the classes weakly"),
        ({"n": 800, "skill": 0.0}, "does not fit", "not shown to be better than chance"),
        ({"n": 40, "present": 0.1}, "cannot be said", "Fewer than 10 patients of one class of Abnormal"),
        ({"n": 40, "present": 0.0}, "cannot be said", "No global label has images of both classes"),
        ({"trained_on": 7}, "cannot be said", "trained on 7 of these 300 images"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_verdict_follows_its_rules(changes, answer, reason):
    verdict = judge(evidence_of(predictions(**changes)))
    assert verdict.answer == answer
    assert reason in " ".join(verdict.reasons)


def test_thresholds_of_a_part_of_the_evaluated_images_were_chosen_on_them():
    point = LabelPoints.choose(np.linspace(0, 1, 40), np.arange(40) % 2, PointTargets(), None)
    points = OperatingPoints("0" * 64, "clinic.parquet", "validation", 40, PointTargets(), {"global/Abnormal": point})
    for splits, here in ((["train"], True), (["train", "validation"], False)):
        found = thresholds_of_model(points, "Abnormal", "clinic.parquet", overlapping_splits("train", splits))
        assert found
        assert {each.chosen_here for each in found} == {here}
    assert overlapping_splits("test", ["train", "test"]) == {"test"}
    assert not any(each.chosen_here for each in thresholds_of_model(points, "Abnormal", "other", {"validation"}))


def test_many_images_of_few_patients_do_not_make_a_verdict():
    """Two patients with 30 images each: every draw with both classes is the same, so the interval has no width."""
    model = predictions(60)
    task = replace(model.global_task, labels=(np.arange(60)[:, None] < 30).astype(int))
    verdict = judge(evidence_of(replace(model, global_task=task, groups=["a"] * 30 + ["b"] * 30)))
    assert (verdict.answer, verdict.reasons[0][:20]) == ("cannot be said", "Fewer than 10 patien")
    # Ten patients of one class, with half of all images: a twentieth of the draws and more has none of them.
    evidence = evidence_of(predictions(800))
    auroc = evidence.row.metrics["auroc_global"]
    dropped = replace(auroc, interval=replace(auroc.interval, dropped=11))
    row = replace(evidence.row, metrics=evidence.row.metrics | {"auroc_global": dropped})
    verdict = judge(replace(evidence, comparison=replace(evidence.comparison, rows=(row,))))
    assert verdict.answer == "cannot be said"
    assert "11 of 200 draws of patients held one class only" in verdict.reasons[0]


def test_reservations_name_suspect_images_subgroups_and_perturbations():
    model = predictions(800)
    scores = model.global_task.scores.copy()
    scores[:200] = np.random.default_rng(1).random((200, 1))
    model = replace(model, global_task=replace(model.global_task, scores=scores))
    sides = ["bad" if row < 200 else "good" for row in range(800)]
    verdict = judge(evidence_of(model, refused=100, subgroups={"side": sides}, shift=0.9))
    text = " ".join(verdict.reasons)
    assert "By the input checks, 12.5 % of 800 images do not look like upright frontal chest radiographs. Look" in text
    assert "unlike the training images" not in text, "the model has no reference"
    assert "It is worse where side is bad" in text
    assert "side is good" not in text
    assert "blur changes the AUROC by -" in text


@pytest.mark.parametrize(("unlike", "answer"), [(44, "fits"), (54, "fits"), (55, "fits with reservations")])
def test_images_unlike_the_training_images_are_a_reservation_beyond_chance_only(unlike, answer):
    inputs = InputQuality(unlike + 3, {"no contrast": 3}, {"unlike the training images": unlike}, 54, 0.05)
    verdict = judge(replace(evidence_of(predictions(800)), inputs=inputs))
    assert verdict.answer == answer
    assert "By the input checks, 0.4 % of 800 images" in verdict.reasons[2]
    assert verdict.reasons[3].startswith(f"{unlike / 8:.1f} % of 800 images are unlike the training images")
    assert "the model's limit is set for 5.0 %, and up to 6.8 % are explained by chance" in verdict.reasons[3]


def test_a_file_that_is_no_record_is_named_with_both_kinds_of_records(evidence, tmp_path):
    evidence.save(tmp_path / "evaluation.json")
    text = (tmp_path / "evaluation.json").read_text()
    for damaged in (text[:-100], "[]", "null", "{}", None):
        file = tmp_path / f"record-{damaged is None}.json"
        if damaged is not None:
            file.write_text(damaged)
        with pytest.raises(MLCAKError, match=r"must be the evaluation\.json .*, or the comparison\.json .*cannot be"):
            load_results(file)


def test_a_record_without_rows_images_or_numbers_is_refused(evidence, tmp_path):
    evidence.save(tmp_path / "evaluation.json")
    content = json.loads((tmp_path / "evaluation.json").read_text())
    (row,) = content["comparison"]["rows"]
    for value in ("high", None, float("nan")):
        metrics = row["metrics"] | {"auroc_global": row["metrics"]["auroc_global"] | {"value": value}}
        changes = {"comparison": content["comparison"] | {"rows": [row | {"metrics": metrics}]}}
        (tmp_path / "evaluation.json").write_text(json.dumps(content | changes))
        with pytest.raises(MLCAKError, match="is not the record of an evaluation"):
            Evidence.load(tmp_path)
    for changes in ({"rows": []}, {"n_images": 0}, {"n_images": "many"}):
        (tmp_path / "evaluation.json").write_text(json.dumps(content | {"comparison": content["comparison"] | changes}))
        with pytest.raises(MLCAKError, match="is not the record of an evaluation"):
            Evidence.load(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"seed": -1}, {"seed": "0"}, {"seed": None}, {"phantom_mean": "grey"}, {"probabilities": {"global/Normal": None}},
     {"probabilities": {"global/Normal": "0.4"}}, {"probabilities": None}],
)  # fmt: skip
def test_a_self_check_of_other_values_is_refused(tmp_path, changes):
    CHECK.save(tmp_path)
    assert SelfCheck.load(tmp_path) == CHECK
    file = tmp_path / "self_check.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(MLCAKError, match=r"self_check\.json cannot be read as a self-check \(.*Evaluate the model"):
        SelfCheck.load(tmp_path)


def test_a_record_without_a_reference_rate_can_still_be_read(evidence, tmp_path):
    evidence.save(tmp_path / "evaluation.json")
    content = json.loads((tmp_path / "evaluation.json").read_text())
    del content["inputs"]["most_unlike"], content["inputs"]["false_refusals"]
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    assert Evidence.load(tmp_path) == evidence


def test_long_names_of_thresholds_stay_below_the_axes_and_inside_the_figure(evidence):
    label = evidence.labels[0]
    points = tuple(replace(point, rule="largest sensitivity + specificity on " + 60 * "x") for point in label.points)
    figure = report_figures(replace(evidence, labels=(replace(label, points=points),)))["roc"]
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert legend.y1 <= figure.axes[0].get_tightbbox().y0
    assert min(legend.x0, legend.y0) >= 0
    assert legend.x1 <= figure.bbox.x1


def test_open_questions_name_what_the_images_are_too_few_for():
    few = judge(evidence_of(predictions(60), subgroups={"side": ["a"] * 50 + ["b"] * 10})).open_questions
    text = " ".join(few)
    assert "How good it is within 0.1" in text
    assert "labels with fewer than 10 patients of one class: Edema, Rare" in text
    assert "as good for side b: too few patients" in text


def test_requirements_name_what_is_not_met(evidence):
    auroc = evidence.row.metrics["auroc_global"].value
    texts = ["auroc_global>=0.5", "auroc_global >= 0.99", "auroc_global.low<0.1", "share_refused<=0.05"]
    failed = failed_requirements([Requirement.parse(text) for text in texts], evidence)
    assert failed[0] == f"auroc_global >= 0.99: not met; auroc_global is {auroc:.4f}."
    assert [text.split(":")[0] for text in failed] == ["auroc_global >= 0.99", "auroc_global.low<0.1"]
    (undefined,) = failed_requirements([Requirement.parse("auroc_local_micro.low>=0")], evidence)
    assert "could not be measured" in undefined
    on_training = evidence_of(predictions(trained_on=7))
    (reason,) = failed_requirements([Requirement.parse("auroc_global>=0.5")], on_training)
    assert "trained on 7 of these images" in reason


def test_requirements_in_another_form_or_with_an_unknown_metric_are_refused():
    for text in ("auroc_global", "auroc_global=0.9", ">=0.9", "auroc_global>=high"):
        with pytest.raises(RecipeError, match="must have the form"):
            Requirement.parse(text)
    config = MLCAKConfig(local_labels=["Edema"])
    with pytest.raises(RecipeError, match=r"no metric 'auroc_globl'\. Did you mean 'auroc_global'"):
        Requirement.parse("auroc_globl>=0.9").check_name(config)
    for metric in ("auroc/Edema", "auroc_global.low", "brier_global", "share_refused"):
        Requirement.parse(f"{metric}>=0.9").check_name(config)


class Tags(HTMLParser):
    """Opened and closed tags of a page, and its attributes."""

    def __init__(self, page):
        super().__init__()
        self.open, self.attributes, self.text = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in ("meta", "img", "br", "path", "use", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_is_one_file_without_script_or_network(evidence, tmp_path):
    row = evidence.errors[0].row
    page, record = write_evidence(evidence, tmp_path, Pictures({row: "data:image/png;base64,AAAA"}))
    assert (page.name, record.name) == ("report.html", "evaluation.json")
    tags = Tags(page.read_text(encoding="utf-8"))
    assert tags.open == []
    assert {tag for tag, *_ in tags.attributes}.isdisjoint({"script", "link", "iframe", "object"})
    for _, name, value in tags.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:", "#")), value
    assert "url(http" not in page.read_text(encoding="utf-8")
    text = " ".join(tags.text)
    for heading in ("Discrimination", "Operating points", "Findings", "Subgroups", "Robustness", "CLAIM checklist"):
        assert heading in text
    assert "This model fits these images" in text
    assert ("img", "alt", f"Radiograph of row {row}") in tags.attributes


def test_the_report_is_the_same_for_the_same_record_and_holds_no_picture_without_one(evidence):
    page = render(evidence)
    assert page == render(evidence)
    assert "<img" not in page
    assert f"Row {evidence.errors[0].row}:" in page


def explanations(gain):
    measured = {name: Measured(gain, gain - 0.01, gain + 0.01) for name in FLOORS}
    p_values = dict.fromkeys(FLOORS, 0.001)
    scores = [MapScore(kind, group, "attention", metric, 60, patients, Measured(0.2), measured, measured, p_values)
              for kind, group, patients in (("all", "", 50), ("finding", "Edema", 50), ("size", "under 1 %", 9))
              for metric in ("energy", "pointing")]  # fmt: skip
    return MapReport("student", ("0" * 64,), 60, 55, 50, tuple(scores), {}, {}, {}, (), 0)


def test_the_report_says_what_the_explanation_maps_are_worth(evidence, tmp_path):
    explained = replace(evidence, explanations=explanations(-0.05))
    explained.save(tmp_path / "evaluation.json")
    assert Evidence.load(tmp_path) == explained
    page = render(explained)
    Tags(page)
    assert "60 findings with boxes in 55 images of 50 patients" in page
    assert "attention find the boxes worse than their mean map" in page
    assert "-0.050<small>[-0.060, -0.040]</small>" in page
    assert "<td>Edema</td>" in page
    assert re.search(r"under 1 % of the radiograph</td>.*too few patients", page)
    assert "The mean map is the better guide" not in render(replace(evidence, explanations=explanations(0.05)))
    assert "was not measured here" in render(evidence)


def test_maps_are_shown_beside_their_images_with_what_they_are(evidence):
    (error, *_), picture = evidence.errors, "data:image/png;base64,AAAA"
    page = render(evidence, Pictures({}, (("Missed", error, picture),)))
    assert page.count("<img") == 1
    assert f"Missed, row {error.row}: Abnormal {error.score:.3f}" in page
    assert "attention that raises the score of the label" in page


def test_names_from_a_dataset_cannot_break_the_page():
    sides = ["<script>alert(1)</script>" if row % 2 else "a & b" for row in range(300)]
    page = render(evidence_of(predictions(), subgroups={"<b>": sides}))
    Tags(page)
    assert not re.search(r"<script|<b>\s*(<script|a &)", page)


def test_a_report_without_labels_of_both_classes_is_still_written():
    page = render(evidence_of(predictions(40, present=0.0)))
    assert "cannot be said" in page
    assert "Operating points" not in page


def test_the_checklist_answers_only_from_the_record(evidence):
    items = {item.number: item.answer for item in claim_items(evidence)}
    assert list(items) == sorted(items)
    assert "300 images of 150 patients" in items[7]
    assert items[25] == "Not recorded with this model."
    assert items[20] == "None of the evaluated images was a training image, by hashes of their pixels."
    assert "trained on 7 of" in {i.number: i.answer for i in claim_items(evidence_of(predictions(trained_on=7)))}[20]


@pytest.mark.parametrize(
    ("changes", "training", "chosen"),
    [
        ({}, "seed 7.", "The last step; no checkpoint was chosen."),
        ({"teachers": ["cnn", "vit"]}, "seed 7, taught by cnn and vit.", "The last step; no checkpoint was chosen."),
        ({"chosen_by": "auroc_global"}, "seed 7.", "By auroc_global, on 100 validation images."),
    ],
)
def test_the_checklist_says_what_taught_the_model_and_what_chose_it(changes, training, chosen):
    trained = {
        "dataset": "chests", "images": 600, "validation_images": 100, "initial_weights": "random", "teachers": [],
        "epochs": 12.0, "steps": 240, "learning_rate": 1e-3, "optimizer": "adamw_torch", "seed": 7, "chosen_by": None,
    }  # fmt: skip
    found = evidence_of(predictions())
    items = claim_items(replace(found, facts=FACTS | {"trained": trained | changes}))
    answers = {item.number: item.answer for item in items}
    assert answers[25].endswith(training)
    assert answers[26] == chosen
