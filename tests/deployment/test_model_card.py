"""A card says what was measured, as it was measured, and nothing else."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.deployment.measurements import Evaluation
from mlcak_hf.deployment.model_card import card_for_folder, create_model_card
from mlcak_hf.errors import DeploymentError
from mlcak_hf.evaluation.compare import compare
from mlcak_hf.evaluation.comparison import Comparison
from mlcak_hf.evaluation.predictions import ModelPredictions
from mlcak_hf.evaluation.scores import global_scores, local_scores
from mlcak_hf.pretrained import weights_digest

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


@pytest.fixture(scope="module")
def card(comparison: Comparison) -> ModelCard:
    return create_model_card(
        CONFIG,
        PROCESSOR,
        model_name="student-28",
        model_id="radiology-lab/student-28",
        training={"Dataset": Path("/home/somebody/data/chest-phantoms"), "Weights | start": "random", "Rate": 3e-4},
        evaluation=Evaluation.from_comparison(comparison.to_dict(), "student"),
        limits=["Trained on synthetic radiographs only."],
    )


def test_numbers_are_those_of_the_comparison(card: ModelCard, comparison: Comparison) -> None:
    row = next(row for row in comparison.rows if row.name == "student")
    estimate = row.estimates["auroc_global"]
    assert estimate.interval is not None
    interval = f"[{estimate.interval.low:.3f}, {estimate.interval.high:.3f}]"
    assert f"| AUROC global | {estimate.value:.3f} {interval} |" in card.content
    present = int(comparison.class_counts["Cardiomegaly"][1])
    assert f"| Cardiomegaly | {present} of 120 | {row.estimates['auroc/Cardiomegaly'].value:.3f}" in card.content
    teacher = comparison.rows[0].estimates["auroc_global"].value
    assert f"| teacher | {teacher:.3f}" in card.content
    for statement in comparison.noise_statements()[: len(comparison.differences)]:
        assert f"- {statement}" in card.content


def test_every_number_of_the_evaluation_section_was_measured(card: ModelCard, comparison: Comparison) -> None:
    section = card.content.split("## Evaluation")[1].split("## Limits")[0]
    measured = json.dumps(comparison.to_dict())
    known = {f"{abs(float(number)):.3f}" for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", measured)}
    shown = set(re.findall(r"\d\.\d{3}", section))
    assert len(shown) > 10
    assert shown <= known


def test_metadata_is_what_the_hub_reads(card: ModelCard, comparison: Comparison, tmp_path: Path) -> None:
    card.save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.language, data.license, data.library_name) == ("en", "apache-2.0", "transformers")
    assert data.pipeline_tag == "image-classification"
    assert {"chest-xray", "medical", "mlcak"} <= set(data.tags)
    assert data.model_name == "student-28"
    assert data.base_model is None
    results = {result.metric_name: result for result in data.eval_results}
    (name,) = [name for name in results if name.startswith("AUROC global")]
    assert "95 % interval" in name
    assert results[name].metric_type == "roc_auc"
    row = next(row for row in comparison.rows if row.name == "student")
    assert results[name].metric_value == round(row.estimates["auroc_global"].value, 4)
    assert results[name].dataset_name == "chest-phantoms"
    assert not any("Pneumothorax" in name or "Edema" in name for name in results)


def test_what_cannot_be_known_is_said(card: ModelCard) -> None:
    limits = card.content.split("## Limits")[1]
    assert "one class only: Pneumothorax." in limits
    assert "never annotated them: Edema." in limits
    assert "Not evaluated at all: Rib fracture." in limits
    assert "single training run" in limits
    assert "Trained on synthetic radiographs only." in limits


def test_a_card_without_numbers_says_so() -> None:
    card = create_model_card(CONFIG, model_name="untested")
    assert card.data.eval_results is None
    assert "model-index" not in card.content
    assert "Not measured." in card.content.split("## Evaluation")[1]
    assert "Not recorded." in card.content.split("## Training")[1].split("## Evaluation")[0]
    assert not re.search(r"\d\.\d", card.content.split("## Training")[1].split("## Citation")[0].replace("0.5 is", ""))


def test_a_card_tells_nothing_of_the_machine(card: ModelCard) -> None:
    assert "somebody" not in card.content
    assert "| Dataset | chest-phantoms |" in card.content
    assert "| Weights \\| start | random |" in card.content


def test_how_to_use_and_warnings(card: ModelCard) -> None:
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
    data = comparison.to_dict()
    data["rows"][1]["runs"] = ["0", "1", "2"]
    card = create_model_card(CONFIG, model_name="x", evaluation=Evaluation.from_comparison(data, "student"))
    assert "means over 3 training runs" in card.content


def test_base_model_and_datasets_of_the_hub() -> None:
    card = create_model_card(CONFIG, model_name="x", base_model="google/vit-base-patch16-224", datasets=["lab/cxr"])
    assert card.data.base_model == "google/vit-base-patch16-224"
    assert card.data.datasets == ["lab/cxr"]


def test_multi_label_and_global_only() -> None:
    config = MLCAKConfig(
        local_labels=[], id2label={0: "COPD", 1: "Pneumonia"}, problem_type="multi_label_classification"
    )
    card = create_model_card(config, model_name="x")
    assert "scores each of the global labels COPD, Pneumonia." in card.content
    assert "none: global task only" in card.content


def test_from_comparison_reads_the_file_and_names_what_is_wrong(comparison: Comparison, tmp_path: Path) -> None:
    comparison.to_json(tmp_path / "comparison.json")
    from_file = Evaluation.from_comparison(tmp_path / "comparison.json", "student")
    assert from_file == Evaluation.from_comparison(comparison.to_dict(), "student")
    with pytest.raises(DeploymentError, match=r"'studnet'.*'teacher', 'student'"):
        Evaluation.from_comparison(tmp_path / "comparison.json", "studnet")
    with pytest.raises(DeploymentError, match=r"gone\.json"):
        Evaluation.from_comparison(tmp_path / "gone.json", "student")
    (tmp_path / "other.json").write_text('{"rows": 3}')
    with pytest.raises(DeploymentError, match="no comparison"):
        Evaluation.from_comparison(tmp_path / "other.json", "student")


def test_a_row_of_other_weights_is_refused(comparison: Comparison, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    MLCAKForCXRClassification(MLCAKConfig(backbone_config=TINY)).save_pretrained(folder)
    MLCAKImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    data = comparison.to_dict()
    assert "AUROC" in str(card_for_folder(folder, data)), "an older comparison does not name the weights"
    data["context"]["weights"] = {"student": [weights_digest(folder)], "teacher": ["0" * 64]}
    assert "AUROC" in str(card_for_folder(folder, data))
    with pytest.raises(DeploymentError, match="row 'teacher' were measured with other weights"):
        card_for_folder(folder, data, "teacher")


def test_a_row_of_another_size_or_of_reduced_images_is_refused(comparison: Comparison, tmp_path: Path) -> None:
    """What an older comparison recorded, too; the weights of a model fed with low resolution are its own."""
    folder = tmp_path / "student"
    MLCAKForCXRClassification(MLCAKConfig(backbone_config=TINY)).save_pretrained(folder)
    MLCAKImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    data = comparison.to_dict()
    data["rows"] = [row | {"details": {"image_size_px": 224, "lowres_px": None}} for row in data["rows"]]
    with pytest.raises(DeploymentError, match=r"row 'student' are of a model for 224 px images.*takes 8 px"):
        card_for_folder(folder, data)
    data["rows"] = [row | {"details": {"image_size_px": 8, "lowres_px": 4}} for row in data["rows"]]
    data["context"]["weights"] = {"student": [weights_digest(folder)]}
    with pytest.raises(DeploymentError, match=r"row 'student' are of images that were reduced to 4 px"):
        card_for_folder(folder, data)
    MLCAKImageProcessor(size={"height": 8, "width": 8}, lowres=4).save_pretrained(folder)
    assert "AUROC" in str(card_for_folder(folder, data))


def test_a_run_whose_weights_were_not_recorded_may_be_this_one(comparison: Comparison, tmp_path: Path) -> None:
    """A model that was evaluated from the Hub has no digest."""
    folder = tmp_path / "student"
    MLCAKForCXRClassification(MLCAKConfig(backbone_config=TINY)).save_pretrained(folder)
    MLCAKImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    data = comparison.to_dict()
    data["context"]["weights"] = {"student": ["0" * 64, None]}
    assert "AUROC" in str(card_for_folder(folder, data))


def test_labels_with_slashes_are_no_paths(comparison: Comparison) -> None:
    names = ["a/b/c", "/lung", "Nodule/Mass"]
    card = create_model_card(
        MLCAKConfig(local_labels=names), model_name="x", training={"Teacher": ["/home/somebody/t", "owner/name"]}
    )
    assert "| Local findings | a/b/c, /lung, Nodule/Mass |" in card.content
    assert "| Teacher | t, owner/name |" in card.content


def test_a_config_or_processor_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        MLCAKForCXRClassification(MLCAKConfig(backbone_config=TINY)).save_pretrained(tmp_path)
        MLCAKImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path)
        (tmp_path / name).write_text("{")
        with pytest.raises(DeploymentError, match="cannot be loaded"):
            card_for_folder(tmp_path)
