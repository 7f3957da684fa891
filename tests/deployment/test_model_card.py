"""A card says what was measured, as it was measured, and nothing else."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from saved_models import RECORD

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.deployment.model_card import card_for_folder, create_model_card
from mlcak_hf.errors import DeploymentError, MLCAKError
from mlcak_hf.evaluation.compare import compare
from mlcak_hf.evaluation.comparison import Comparison
from mlcak_hf.evaluation.predictions import ModelPredictions
from mlcak_hf.evaluation.report.wording import statement
from mlcak_hf.evaluation.scores import global_scores, local_scores
from mlcak_hf.training.record import TrainingRecord
from mlcak_hf.weights import weights_digest

TINY = {"model_type": "vit", "image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 8}
TINY |= {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
FINDINGS = ["Cardiomegaly", "Nodule/Mass", "Pneumothorax", "Edema"]
CONFIG = MLCAKConfig(local_labels=[*FINDINGS, "Rib fracture"])
PROCESSOR = MLCAKImageProcessor(size={"height": 28, "width": 28}, voi="percentile")


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """Two models on 120 images; Pneumothorax never occurs, Edema was never annotated, Rib fracture is unknown."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 120)
    findings = (random.random((120, 4)) < [0.3, 0.2, 0.0, 0.1]).astype(float)
    findings[:, 3] = -1

    def model(name: str, signal: float) -> ModelPredictions:
        return ModelPredictions(
            name,
            [f"image-{index}" for index in range(120)],
            global_scores(np.clip(labels * signal + random.random(120), 0, 1), labels, ["Normal", "Abnormal"]),
            local_scores(np.clip(findings * signal + random.random((120, 4)), 0, 1), findings, FINDINGS),
            details={"folder": "/home/somebody/runs"},
        )

    context = {"dataset": "/home/somebody/data/chest-phantoms", "split": "test"}
    return compare([model("teacher", 0.6), model("student", 0.3)], n_draws=60, context=context)


def record(dataset: str = "phantoms", **model: Any) -> TrainingRecord:
    """The record of a student, with another dataset or other entries about the model."""
    content = RECORD | {"data": {"dataset": dataset, "preparation": {}}, "model": RECORD["model"] | model}
    return TrainingRecord(content)


@pytest.fixture(scope="module")
def card(comparison: Comparison) -> ModelCard:
    return create_model_card(
        CONFIG,
        PROCESSOR,
        model_id="radiology-lab/student-28",
        record=record("chest-phantoms", initial_weights="model", model="start | a"),
        results=comparison,
        row="student",
    )


def test_numbers_are_those_of_the_comparison(card: ModelCard, comparison: Comparison) -> None:
    row = next(row for row in comparison.rows if row.name == "student")
    estimate = row.metrics["auroc_global"]
    assert estimate.interval is not None
    interval = f"[{estimate.interval.low:.3f}, {estimate.interval.high:.3f}]"
    assert f"| AUROC global | {estimate.value:.3f} {interval} |" in card.content
    present = comparison.class_counts["Cardiomegaly"].present
    assert f"| Cardiomegaly | {present} of 120 | {row.metrics['auroc/Cardiomegaly'].value:.3f}" in card.content
    teacher = comparison.rows[0].metrics["auroc_global"].value
    assert f"| teacher | {teacher:.3f}" in card.content
    for difference in comparison.differences:
        assert f"- {statement(difference)}" in card.content


def test_every_number_of_the_evaluation_section_was_measured(card: ModelCard, comparison: Comparison) -> None:
    section = card.content.split("## Evaluation")[1].split("## Limits")[0]
    measured = json.dumps(asdict(comparison))
    known = {f"{abs(float(number)):.3f}" for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", measured)}
    shown = set(re.findall(r"\d\.\d{3}", section.replace("p < 0.001", "")))
    assert len(shown) > 10
    assert shown <= known


def test_the_metadata_are_those_that_the_hub_reads(card: ModelCard, comparison: Comparison, tmp_path: Path) -> None:
    card.save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.language, data.license, data.library_name) == ("en", None, "transformers")
    assert data.pipeline_tag == "image-classification"
    assert {"chest-xray", "medical", "mlcak"} <= set(data.tags)
    assert data.model_name == "student-28"
    assert data.base_model is None
    results = {result.metric_name: result for result in data.eval_results}
    (name,) = [name for name in results if name.startswith("AUROC global")]
    assert "95 % interval" in name
    assert results[name].metric_type == "roc_auc"
    row = next(row for row in comparison.rows if row.name == "student")
    assert results[name].metric_value == round(row.metrics["auroc_global"].value, 4)
    assert results[name].dataset_name == "chest-phantoms"
    assert not any("Pneumothorax" in name or "Edema" in name for name in results)


def test_what_cannot_be_known_is_said(card: ModelCard) -> None:
    limits = card.content.split("## Limits")[1]
    assert "one class only: Pneumothorax." in limits
    assert "never annotated them: Edema." in limits
    assert "Not evaluated at all: Rib fracture." in limits
    assert "single training run" in limits
    assert "the model's outputs mean nothing: ILD." in limits


def test_a_card_without_numbers_says_so() -> None:
    card = create_model_card(CONFIG, model_id="untested")
    assert card.data.eval_results is None
    assert "model-index" not in card.content
    assert "Not measured." in card.content.split("## Evaluation")[1]
    assert "Not recorded." in card.content.split("## Training")[1].split("## Evaluation")[0]
    assert not re.search(
        r"\d\.\d", card.content.split("## Training")[1].split("## Licence")[0].replace("0.5 without", "")
    )


def test_a_card_names_no_local_folder(card: ModelCard) -> None:
    assert "somebody" not in card.content
    assert "| Dataset | chest-phantoms |" in card.content
    assert "| Initial weights | those of start \\| a |" in card.content


def test_a_card_says_how_to_use_the_model_and_warns(card: ModelCard) -> None:
    assert "Research use only" in card.content
    assert 'pipeline("image-classification", model="radiology-lab/student-28", trust_remote_code=True)' in card.content
    assert "read_radiograph" in card.content
    assert "16-bit" in card.content
    assert 'voi = "percentile"' in card.content
    assert "arXiv:2405.13370" in card.content
    assert "{{" not in card.content
    assert "{%" not in card.content
    tables = re.findall(r"(?:^\|.*\n)+", card.content, flags=re.MULTILINE)
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table


def test_means_over_runs_are_named_as_such(comparison: Comparison) -> None:
    runs = changed(comparison, runs=("0", "1", "2"))
    card = create_model_card(CONFIG, model_id="student", results=runs)
    assert "means over 3 training runs" in card.content


def test_the_card_of_a_cnn_says_that_it_has_no_attention():
    cnn = MLCAKConfig(backbone_config={"model_type": "resnet", "hidden_sizes": [8, 16], "depths": [1, 2]})
    text = create_model_card(cnn, model_id="x").text
    assert "with a convolutional network" in text
    assert "| Backbone | resnet, stages of 1, 2 blocks, widths 8, 16; no attention |" in text
    assert "with a Vision Transformer" in create_model_card(CONFIG, model_id="x").text


def test_a_convolutional_trunk_is_named() -> None:
    cards = [create_model_card(MLCAKConfig(patch_embedding=kind), model_id="x").text for kind in ("conv", "linear")]
    assert "patches of 4 px, convolutional trunk |" in cards[0]
    assert "convolutional" not in cards[1]


def test_the_base_model_is_in_the_metadata() -> None:
    pretrained = record(backbone="google/vit-base-patch16-224", backbone_on_hub=True)
    card = create_model_card(CONFIG, model_id="x", record=pretrained)
    assert card.data.base_model == "google/vit-base-patch16-224"


def test_no_licence_is_stated_unless_it_is_given() -> None:
    card = create_model_card(CONFIG, model_id="x", record=record("vindr-256"))
    assert "license:" not in card.content
    assert "depends on the terms of the training data (vindr-256)" in card.content
    card = create_model_card(CONFIG, model_id="x", license="apache-2.0")
    assert card.data.license == "apache-2.0"
    assert "under the licence apache-2.0" in card.content


def test_a_model_without_a_hub_id_is_loaded_from_a_path() -> None:
    card = create_model_card(CONFIG, model_id="student-28")
    assert 'model="path/to/student-28"' in card.content
    assert 'from_pretrained("path/to/student-28")' in card.content


def test_the_limits_name_a_measured_threshold(comparison: Comparison) -> None:
    card = create_model_card(CONFIG, model_id="student", results=changed(comparison, thresholds=({"Abnormal": 0.4},)))
    assert "90 % specificity on the validation split of chest-phantoms: Abnormal 0.400." in card.content
    assert "No decision threshold" not in card.content
    assert (
        "No decision threshold was measured."
        in create_model_card(CONFIG, model_id="student", results=comparison).content
    )


def test_a_multi_label_model_without_findings_is_described_as_such() -> None:
    config = MLCAKConfig(
        local_labels=[], id2label={0: "COPD", 1: "Pneumonia"}, problem_type="multi_label_classification"
    )
    card = create_model_card(config, model_id="x")
    assert "scores each of the global labels COPD, Pneumonia." in card.content
    assert "none: global task only" in card.content


def changed(comparison: Comparison, **changes: Any) -> Comparison:
    """The same comparison, with changed rows."""
    return replace(comparison, rows=tuple(replace(row, **changes) for row in comparison.rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    MLCAKForCXRClassification(MLCAKConfig(backbone_config=TINY)).save_pretrained(tmp_path / "student")
    MLCAKImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def test_the_comparison_is_read_from_its_file(comparison: Comparison, folder: Path) -> None:
    comparison.to_json(folder / "comparison.json")
    assert "AUROC" in card_for_folder(folder, folder / "comparison.json").content
    assert card_for_folder(folder, folder / "comparison.json").content == card_for_folder(folder, comparison).content
    with pytest.raises(MLCAKError, match=r"'studnet'; it has 'teacher', 'student'"):
        card_for_folder(folder, comparison, "studnet")


def test_a_row_of_different_weights_is_refused(comparison: Comparison, folder: Path) -> None:
    own = changed(comparison, weights=(weights_digest(folder),))
    assert "AUROC" in card_for_folder(folder, own).content
    other = changed(comparison, weights=("0" * 64,))
    with pytest.raises(DeploymentError, match="Row 'teacher' was measured with different weights"):
        card_for_folder(folder, other, "teacher")
    # A run from the Hub has no digest, and may be this one.
    assert "AUROC" in card_for_folder(folder, changed(comparison, weights=("0" * 64, None))).content


def test_a_row_of_another_size_or_of_reduced_images_is_refused(comparison: Comparison, folder: Path) -> None:
    with pytest.raises(DeploymentError, match=r"Row 'student' was measured with 224 px images.*takes 8 px"):
        card_for_folder(folder, changed(comparison, details={"image_size_px": 224, "lowres_px": None}))
    reduced = changed(comparison, details={"image_size_px": 8, "lowres_px": 4}, weights=(weights_digest(folder),))
    with pytest.raises(DeploymentError, match=r"Row 'student' was measured with images reduced to 4 px"):
        card_for_folder(folder, reduced)
    MLCAKImageProcessor(size={"height": 8, "width": 8}, lowres=4).save_pretrained(folder)
    assert "AUROC" in card_for_folder(folder, reduced).content


def test_labels_with_slashes_are_not_paths() -> None:
    names = ["a/b/c", "/lung", "Nodule/Mass"]
    card = create_model_card(MLCAKConfig(local_labels=names), model_id="x", record=record(teacher=["t", "owner/name"]))
    assert "| Local findings | a/b/c, /lung, Nodule/Mass |" in card.content
    assert "| Teacher | t, owner/name |" in card.content


def test_a_config_or_processor_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        MLCAKForCXRClassification(MLCAKConfig(backbone_config=TINY)).save_pretrained(tmp_path)
        MLCAKImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
        (tmp_path / name).write_text("{")
        with pytest.raises(DeploymentError, match="cannot be loaded"):
            card_for_folder(tmp_path)
