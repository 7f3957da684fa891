"""Temperature, operating points and their file, against known populations and slow references."""

import json
from itertools import product

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlcak_hf.errors import MLCAKError
from mlcak_hf.probabilities import SINGLE_LABEL, probabilities
from mlcak_hf.trust.operating_points import (
    OPERATING_POINTS_FILE,
    LabelPoints,
    OperatingPoints,
    PointTargets,
    choose_temperatures,
)
from mlcak_hf.trust.temperature import fit_temperature, with_temperature


def population(temperature, n=4000, seed=0):
    """Logits and labels; the logits divided by the temperature are calibrated."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (n, 1))
    return logits, (random.random((n, 1)) < probabilities(logits / temperature)).astype(np.int8)


def points(folder, **changes):
    (folder / "model.safetensors").write_bytes(b"weights")
    from mlcak_hf.weights import weights_digest

    logits, labels = population(1.0, 300)
    scores = probabilities(logits)[:, 0]
    chosen = {
        "global/Abnormal": LabelPoints.choose(scores, labels[:, 0], PointTargets()),
        "finding/Edema": LabelPoints.choose(scores[:12], labels[:12, 0], PointTargets()),
    }
    given = {"weights": weights_digest(folder), "dataset": "d", "split": "validation", "n_images": 300}
    return OperatingPoints(**given | changes, targets=PointTargets(), labels=chosen, temperatures={"global": 1.5})


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_a_population_is_found_again(temperature):
    logits, labels = population(temperature)
    assert fit_temperature(probabilities(logits), labels) == pytest.approx(temperature, rel=0.1)
    two = np.concatenate([np.zeros_like(logits), logits], axis=1)
    found = fit_temperature(probabilities(two, SINGLE_LABEL), np.concatenate([1 - labels, labels], 1), SINGLE_LABEL)
    assert found == pytest.approx(fit_temperature(probabilities(logits), labels), rel=1e-3)


def test_the_temperature_equals_a_logistic_regression_without_intercept():
    logits, labels = population(1.7, 500)
    slope = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits, labels[:, 0]).coef_[0, 0]
    assert fit_temperature(probabilities(logits), labels) == pytest.approx(1 / slope, rel=1e-3)
    labels[:250] = -1
    assert fit_temperature(probabilities(logits), labels) == fit_temperature(probabilities(logits[250:]), labels[250:])


def test_probabilities_with_a_temperature_are_those_of_divided_logits():
    logits = np.random.default_rng(0).normal(0, 3, (50, 3))
    for kind in (SINGLE_LABEL, "multi_label_classification"):
        found = with_temperature(probabilities(logits, kind), 2.5, kind)
        assert found == pytest.approx(probabilities(logits / 2.5, kind), abs=1e-12)
    one = with_temperature(probabilities(logits[:, :2], SINGLE_LABEL)[:, 1:], 2.5, SINGLE_LABEL)
    assert one == pytest.approx(probabilities(logits[:, :2] / 2.5, SINGLE_LABEL)[:, 1:], abs=1e-12)
    assert np.isfinite(with_temperature([[0.0, 1.0]], 3.0, SINGLE_LABEL)).all()


def test_separable_scores_and_rare_labels_have_no_temperature():
    separable = np.array([[0.1]] * 20 + [[0.9]] * 20), np.repeat([0, 1], 20)[:, None]
    assert fit_temperature(*separable) is None
    logits, labels = population(1.5)
    labels[np.flatnonzero(labels[:, 0])[9:]] = 0
    heads = {"global": (probabilities(logits), labels), "finding": separable}
    assert choose_temperatures(heads, SINGLE_LABEL) == {}


def test_points_keep_what_they_promise_on_their_own_images():
    logits, labels = population(1.0, 300)
    scores, labels = probabilities(logits)[:, 0], labels[:, 0]
    chosen = LabelPoints.choose(scores, labels, PointTargets(sensitivity=0.8, specificity=0.7))
    assert chosen.at_sensitivity.sensitivity >= 0.8
    assert chosen.at_specificity.specificity >= 0.7
    best = chosen.youden.sensitivity + chosen.youden.specificity
    assert all(
        best >= point.sensitivity + point.specificity for point in (chosen.at_sensitivity, chosen.at_specificity)
    )
    assert (chosen.positives, chosen.negatives) == ((labels == 1).sum(), (labels == 0).sum())
    assert chosen.point("youden") is chosen.youden


@pytest.mark.parametrize(("positives", "negatives"), [(9, 50), (50, 9), (0, 50)])
def test_fewer_than_ten_of_a_class_give_no_threshold_and_say_so(positives, negatives):
    labels = np.repeat([1, 0, -1], [positives, negatives, 20])
    chosen = LabelPoints.choose(np.random.default_rng(0).random(len(labels)), labels, PointTargets())
    assert chosen.youden is chosen.at_sensitivity is chosen.at_specificity is chosen.low_below is None
    assert chosen.no_threshold == f"{positives} positives and {negatives} negatives; at least 10 of each are needed"
    assert chosen.triage(0.5) == ""


def test_the_file_gives_back_what_was_written(tmp_path):
    made = points(tmp_path)
    made.save(tmp_path)
    assert OperatingPoints.load(tmp_path) == made
    assert made.labels["finding/Edema"].no_threshold
    assert made.calibrated("finding", [[0.2]]) is None
    assert made.calibrated("global", [[0.2]]) == with_temperature([[0.2]], 1.5)


def test_points_of_other_weights_and_damaged_files_are_refused(tmp_path):
    assert OperatingPoints.load(tmp_path) is None
    points(tmp_path).save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"trained again")
    with pytest.raises(MLCAKError, match=r"made for others\. Run `mlcak calibrate` again"):
        OperatingPoints.load(tmp_path)
    file = tmp_path / OPERATING_POINTS_FILE
    for damaged in ("{", "[]", json.dumps({"format": 2}), json.dumps({"format": 1, "labels": {}})):
        file.write_text(damaged)
        with pytest.raises(MLCAKError, match="cannot be read"):
            OperatingPoints.load(tmp_path)


@pytest.mark.parametrize(
    ("place", "value"),
    [*product(("threshold", "positives", "temperature", "sensitivity"), ("0.5", None)), ("low_below", "0.5")],
)
def test_points_that_are_no_numbers_are_refused(tmp_path, place, value):
    points(tmp_path).save(tmp_path)
    file = tmp_path / OPERATING_POINTS_FILE
    content = json.loads(file.read_text())
    label = content["labels"]["global/Abnormal"]
    if place == "temperature":
        content["temperatures"]["global"] = value
    elif place == "sensitivity":
        content["targets"]["sensitivity"] = value
    else:
        (label["youden"] if place == "threshold" else label)[place] = value
    file.write_text(json.dumps(content))
    with pytest.raises(MLCAKError, match=r"operating_points\.json must hold operating points, but cannot be read \("):
        OperatingPoints.load(tmp_path)


def test_targets_must_be_between_0_and_1():
    with pytest.raises(MLCAKError, match=r"sensitivity must be between 0 and 1, both excluded; got 95\."):
        PointTargets(sensitivity=95)
