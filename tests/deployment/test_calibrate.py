"""`mlcak calibrate` on a tiny dataset: what it writes, which images count, and what `mlcak predict` makes of it."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import FINDINGS, tiny_model

from mlcak_hf import MLCAKImageProcessor, RadiographPredictor
from mlcak_hf.data.decoded_images import image_digest
from mlcak_hf.deployment.calibrate import measured_calibration, measured_triage
from mlcak_hf.errors import MLCAKError
from mlcak_hf.evaluation.scores import local_scores
from mlcak_hf.training.training_images import TrainingImages
from mlcak_hf.trust.operating_points import LabelPoints, OperatingPoints, PointTargets
from mlcak_hf.trust.reference import Reference
from mlcak_hf.weights import weights_digest

SIZES = {"train": 60, "validation": 80, "test": 30}


def picture(abnormal: int, random: np.random.Generator) -> np.ndarray:
    """A gradient, brighter if abnormal, so that even random weights tell them apart somewhat."""
    ramp = np.linspace(60, 150, 24)[:, None] + np.linspace(-20, 20, 24)[None]
    return np.uint8(np.clip(ramp + 30 * abnormal + random.normal(0, 12, (24, 24)), 0, 255))


def rows(split: str):
    random = np.random.default_rng(len(split))
    for index in range(SIZES[split]):
        abnormal = int(index % 3 == 0)
        findings = {"Edema": abnormal, "Nodule/Mass": int(index < 4), "Pneumothorax": -1}
        yield {
            "image_id": f"{split}-{index}",
            "image": picture(abnormal, random),
            "label": abnormal,
            "findings": findings,
            "group": f"{split}-{index // 2}",
        }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate") / "dataset"
    features = datasets.Features(
        {
            "image_id": datasets.Value("string"),
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["Normal", "Abnormal"]),
            "findings": {name: datasets.Value("int8") for name in FINDINGS},
            "group": datasets.Value("string"),
        }
    )
    for split in SIZES:
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(list(rows(split)), features=features).to_parquet(path)
    return folder


@pytest.fixture
def model(tmp_path) -> Path:
    network = tiny_model()
    network.save_pretrained(tmp_path / "model")
    MLCAKImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_it_writes_points_and_reference_of_the_weights_and_says_what_is_missing(mlcak, model, dataset):
    before = (model / "model.safetensors").read_bytes()
    code, out, _ = mlcak("calibrate", model, dataset, "--reference", "train", "--test_split", "test")
    assert code == 0
    points = OperatingPoints.load(model)
    assert (points.dataset, points.split, points.n_images) == ("dataset", "validation", 80)
    assert points.weights == weights_digest(model)
    assert set(points.labels) == {"global/Abnormal", *(f"finding/{name}" for name in FINDINGS)}
    label = points.labels["global/Abnormal"]
    assert (label.positives, label.negatives, label.no_threshold) == (27, 53, "")
    assert "No threshold for finding/Nodule/Mass: 4 positives and 76 negatives; at least 10 of each" in out
    assert "No threshold for finding/Pneumothorax: 0 positives and 0 negatives" in out
    assert "Of positives: low" in out
    reference = Reference.load(model)
    assert (reference.n_images, reference.n_held_out) == (60, 80)
    assert "95th percentile" in out
    assert (model / "model.safetensors").read_bytes() == before, "no weight changes"


def test_calibration_and_triage_are_measured_on_the_named_heads():
    task = local_scores([[0.05], [0.3], [0.6], [0.95]] * 10, [[0], [1], [0], [1]] * 10, ["Edema"])
    label = LabelPoints(20, 20, low_below=0.4, high_above=0.5)
    points = OperatingPoints("w", "d", "validation", 40, PointTargets(), {"finding/Edema": label}, {"finding": 2.0})
    (triage,) = measured_triage(points, {"finding": task}, "test")
    assert (triage.positives_low, triage.negatives_high, triage.low, triage.high) == (0.5, 0.5, 0.5, 0.5)
    before, after = measured_calibration(points, {"finding": task}, "test")
    assert (before.temperature, after.temperature) == (None, 2.0)
    assert before.brier == pytest.approx(np.mean([0.05**2, 0.7**2, 0.6**2, 0.05**2]))
    assert after.brier == pytest.approx(np.mean((points.calibrated("finding", task.scores) - task.labels) ** 2))
    assert before.error == pytest.approx(np.mean([0.05, 0.7, 0.6, 0.05]))


def test_images_that_the_model_was_trained_on_are_left_out(mlcak, model, dataset):
    images = [Image.fromarray(row["image"]) for row in rows("validation")]
    TrainingImages.of_run(map(image_digest, images[:30])).save(model)
    code, out, _ = mlcak("calibrate", model, dataset)
    assert code == 0
    assert "validation: 30 images were left out, because the model was trained on them." in out
    assert OperatingPoints.load(model).n_images == 50
    assert Reference.load(model) is None
    TrainingImages.of_run(map(image_digest, images)).save(model)
    code, _, err = mlcak("calibrate", model, dataset)
    assert code == 2
    assert "it was trained on all 80" in err


def test_the_reference_is_not_fitted_to_the_images_that_set_its_limit(mlcak, model, dataset):
    """As where the validation rows are split off from the training rows."""
    mlcak("calibrate", model, dataset, "--split", "test", "--reference", "test")
    assert not (model / "reference.npz").exists()
    single = dataset / "data" / "train-00000-of-00001.parquet"
    assert mlcak("calibrate", model, single, "--reference", "train", "--false_refusals", "0.2")[0] == 0
    reference = Reference.load(model)
    assert reference.n_images + reference.n_held_out == 60


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--split", "nonsense"], "has no split 'nonsense'"),
        (["--sensitivity", "95"], "sensitivity must be between 0 and 1"),
        (["--reference", "train", "--false_refusals", "0.001"], "at least 999 images"),
        (["--label_column", "nonsense"], "nonsense"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(mlcak, model, dataset, arguments, said):
    code, _, err = mlcak("calibrate", model, dataset, *arguments)
    assert code == 2
    assert said in err
    assert not list(model.glob("operating_points*"))
    assert "must be a local folder with weights" in mlcak("calibrate", model.parent, dataset)[2]


def test_labels_that_do_not_fit_the_model_are_named_and_can_be_renamed(mlcak, model, tmp_path):
    names = {0: "healthy", 1: "ABNORMAL"}
    table = [row | {"label": names[row["label"]], "findings": None} for row in rows("validation")]
    datasets.Dataset.from_list(
        table, features=datasets.Features({"image_id": datasets.Value("string"), "image": datasets.Image(),
        "label": datasets.Value("string"), "findings": datasets.List(datasets.Value("string")),
        "group": datasets.Value("string")})).to_parquet(tmp_path / "clinic.parquet")  # fmt: skip
    options = ("calibrate", model, tmp_path / "clinic.parquet", "--split", "train", "--findings_column", "none")
    code, _, err = mlcak(*options)
    assert code == 2
    assert "'healthy', but the model's labels are ['Normal', 'Abnormal']. Say which one it is with --rename" in err
    assert not list(model.glob("operating_points*"))
    assert mlcak(*options, "--rename_label", "healthy=Normal")[0] == 0
    points = OperatingPoints.load(model).labels["global/Abnormal"]
    assert (points.positives, points.negatives) == (27, 53)


def test_a_split_without_any_label_of_the_model_is_refused(mlcak, model, dataset, tmp_path):
    unlabelled = [row | {"label": -1, "findings": dict.fromkeys(FINDINGS, -1)} for row in rows("validation")]
    file = dataset / "data" / "validation-00000-of-00001.parquet"
    features = datasets.Dataset.from_parquet(str(file)).features
    datasets.Dataset.from_list(unlabelled, features=features).to_parquet(tmp_path / "unlabelled.parquet")
    code, _, err = mlcak("calibrate", model, tmp_path / "unlabelled.parquet", "--split", "train")
    assert code == 2
    assert "The split 'train' must have labels of the model's Normal, Abnormal, Edema" in err


def test_predictions_have_a_calibrated_probability_a_threshold_and_a_decision(mlcak, model, dataset, tmp_path):
    mlcak("calibrate", model, dataset, "--false_refusals", "0.05", "--reference", "train")
    points = OperatingPoints.load(model)
    for number, row in enumerate(rows("test")):
        side = np.kron(row["image"], np.ones((4, 4), np.uint8))
        Image.fromarray(side).save(tmp_path / f"{number:02}.png")
    mlcak("predict", model, tmp_path, "--output", tmp_path / "p.csv", "--operating-point", "specificity")
    with (tmp_path / "p.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    threshold = points.labels["global/Abnormal"].at_specificity.threshold
    decided = [row for row in table if not row["warning"]]
    assert len(table) == 30
    assert decided
    for row in decided:
        assert float(row["global/Abnormal/threshold"]) == pytest.approx(threshold, rel=1e-5)
        expected = "positive" if float(row["global/Abnormal"]) >= threshold else "negative"
        assert row["global/Abnormal/decision"] == expected
        assert row["global/Abnormal/triage"] in ("low", "high", "unsure")
        calibrated = points.calibrated("global", [[float(row["global/Abnormal"])]])
        if calibrated is not None:
            assert float(row["global/Abnormal/calibrated"]) == pytest.approx(calibrated[0, 0], abs=1e-4)
    assert {row["global/Abnormal/decision"] for row in table if row["warning"]} <= {""}, "no decision beside a warning"
    assert "finding/Pneumothorax/threshold" not in table[0], "a label without a threshold has no column for it"
    out = mlcak("predict", model, tmp_path / "00.png", "--format", "json")[1]
    assert set(json.loads(out)[0]["decisions"]["global/Abnormal"]) == {"calibrated", "threshold", "decision", "triage"}


def test_an_image_unlike_the_training_images_is_warned_of_or_refused(model, dataset, tmp_path, mlcak):
    mlcak("calibrate", model, dataset, "--reference", "train")
    files = [tmp_path / "like.png", tmp_path / "stripes.png"]
    Image.fromarray(np.kron(picture(0, np.random.default_rng(0)), np.ones((4, 4), np.uint8))).save(files[0])
    Image.fromarray(np.tile(np.repeat(np.uint8([0, 255, 30, 220]), 24), (96, 1))).save(files[1])
    predictor = RadiographPredictor.from_pretrained(model)
    like, stripes = predictor.predict(files)
    assert "unlike the training images (distance" not in (like.warning or "")
    assert "unlike the training images (distance" in stripes.warning
    assert stripes.probabilities
    assert all(found.decision == "" for found in stripes.decisions.values())

    predictor.on_suspect = "refuse"
    nothing_is_like_them = replace(predictor.safeguards.reference, limit=0.0)
    predictor.safeguards = replace(predictor.safeguards, reference=nothing_is_like_them)
    (refused,) = predictor.predict(files[:1], heatmaps_dir=tmp_path / "heatmaps")
    assert refused.refused_because.startswith("unlike the training images (distance")
    assert (refused.probabilities, refused.decisions, refused.attention) == ({}, {}, None)
    assert not list((tmp_path / "heatmaps").iterdir()), "a refused image has no heatmap"


def test_points_of_other_weights_are_refused_and_a_model_without_points_says_so(mlcak, model, dataset, tmp_path):
    Image.fromarray(np.kron(picture(0, np.random.default_rng(0)), np.ones((4, 4), np.uint8))).save(tmp_path / "a.png")
    code, _, err = mlcak("predict", model, tmp_path / "a.png")
    assert code == 0
    assert "No calibrated probabilities and no decisions" in err
    mlcak("calibrate", model, dataset)
    network = tiny_model()
    with torch.no_grad():
        network.classifier.bias += 1
    network.save_pretrained(model)
    with pytest.raises(MLCAKError, match="made for others"):
        RadiographPredictor.from_pretrained(model)
    code, _, err = mlcak("predict", model, tmp_path / "a.png")
    assert code == 2
    assert "Run `mlcak calibrate` again" in err
