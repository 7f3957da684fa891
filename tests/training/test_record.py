"""A training record names what was trained on what, and what the data lacked."""

import copy
import json
import re
from pathlib import Path

import pytest
from saved_models import RECORD

from mlcak_hf import MLCAKConfig, MLCAKImageProcessor
from mlcak_hf.deployment.model_card import card_for_folder, create_model_card
from mlcak_hf.errors import DeploymentError
from mlcak_hf.training.record import TrainingRecord


def rows_of_the_card(record: dict) -> dict[str, str]:
    """What the card of a model shows about its training, by name."""
    card = create_model_card(MLCAKConfig(), model_id="x", record=TrainingRecord(record))
    section = card.content.split("## Training")[1].split("## Evaluation")[0]
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", section, flags=re.MULTILINE))


def test_findings_without_a_positive_image_were_not_learned() -> None:
    assert TrainingRecord(RECORD).unlearned_findings == {"ILD", "Rib fracture"}


def test_a_card_shows_the_recorded_choices() -> None:
    rows = rows_of_the_card(RECORD)
    assert rows["Dataset"] == "phantoms"
    assert rows["Training images"] == "600 (400 Normal, 200 Abnormal)"
    assert rows["Teacher"] == "teacher-224"
    assert rows["Weights of the losses"] == "alpha 1, beta 0.5, gamma 2"
    assert rows["Loss on attention"] == "kl, mean"
    assert rows["Batch"] == "32 per process, accumulated over 4"
    assert rows["Epochs, steps"] == "12, 240"
    assert "trained from scratch" in rows["Initial weights"]
    assert rows["Readers' votes"] == "majority"
    assert rows["Optimizer"] == "adamw_torch, learning rate 0.001 (cosine), weight decay 0.05"
    assert rows["Augmentation"] == "rotation deg 10, shift 0.05"
    assert rows["Seed"] == "7"
    smoothed = rows_of_the_card(RECORD | {"arguments": RECORD["arguments"] | {"label_smoothing_factor": 0.1}})
    assert smoothed["Label smoothing"] == "0.1"
    assert "Label smoothing" not in rows


def test_a_plain_student_names_no_teacher() -> None:
    record = copy.deepcopy(RECORD)
    record["arguments"] |= {"alpha": 0.0, "beta": 0.0, "gamma": 0.0}
    assert "Teacher" not in rows_of_the_card(record)
    assert "Loss on logits" not in rows_of_the_card(record)


def test_a_model_without_views_or_votes_says_so() -> None:
    rows = rows_of_the_card(RECORD | {"views": None, "data": {"dataset": "own", "preparation": {}}})
    assert rows["Augmentation"] == "none"
    assert "Readers' votes" not in rows


def test_what_the_training_data_lacked_is_a_limit() -> None:
    card = create_model_card(MLCAKConfig(local_labels=[]), model_id="x", record=TrainingRecord(RECORD))
    limits = card.content.split("## Limits\n\n")[1].splitlines()
    assert limits[:3] == [
        "- Never annotated in training, so the model's outputs mean nothing: ILD.",
        "- No positive image in training, so they cannot have been learned: Rib fracture.",
        "- Fewer than 10 positive images in training: Emphysema (3).",
    ]
    assert not any("Edema" in limit for limit in limits)


def test_the_card_of_a_folder_says_how_its_model_was_trained(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    MLCAKConfig().save_pretrained(folder)
    MLCAKImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)
    assert "Not recorded." in card_for_folder(folder).content
    (folder / "training.json").write_text(json.dumps(RECORD))
    card = card_for_folder(folder)
    assert "# student\n" in card.content
    assert "| Training images | 600 (400 Normal, 200 Abnormal) |" in card.content
    assert "mean nothing: ILD." in card.content
    assert card.data.base_model is None


@pytest.mark.parametrize("on_hub", [True, False])
def test_only_a_backbone_on_the_hub_is_named_in_the_metadata(tmp_path: Path, on_hub: bool) -> None:
    MLCAKConfig().save_pretrained(tmp_path)
    MLCAKImageProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    record = RECORD | {"model": RECORD["model"] | {"backbone": "owner/vit", "backbone_on_hub": on_hub}}
    TrainingRecord(record).save(tmp_path)
    assert card_for_folder(tmp_path).data.base_model == ("owner/vit" if on_hub else None)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=r"gone\.json"):
        TrainingRecord.load(tmp_path / "gone.json")
    for content in ({"rows": 1}, [], None):
        with pytest.raises(DeploymentError, match="must contain arguments, data"):
            TrainingRecord(content)
    with pytest.raises(DeploymentError, match=r"incomplete: .*'logit_loss'"):
        rows_of_the_card(RECORD | {"arguments": {"alpha": 1.0, "beta": 0.0, "gamma": 0.0}})
    with pytest.raises(DeploymentError, match=r"config\.json"):
        card_for_folder(tmp_path)


@pytest.mark.parametrize(
    ("model", "initial", "base"),
    [
        ({"initial_weights": "random"}, "trained from scratch", None),
        ({"initial_weights": "model", "model": "student-a"}, "those of student-a", None),
        ({"initial_weights": "unknown"}, "not recorded", None),
        ({"backbone": "vit", "backbone_on_hub": False}, "vit (a local folder)", None),
        ({"backbone": "owner/vit", "backbone_on_hub": True}, "owner/vit", "owner/vit"),
    ],
)
def test_a_card_claims_only_the_recorded_origin(model, initial, base):
    record = RECORD | {"model": RECORD["model"] | model}
    assert initial in rows_of_the_card(record)["Initial weights"]
    assert TrainingRecord(record).base_model == base


def test_a_student_taught_from_a_cache_is_not_a_plain_student():
    cached = RECORD["model"] | {"teacher": None, "teacher_cache": "cache-4"}
    rows = rows_of_the_card(RECORD | {"model": cached})
    assert rows["Teacher"] == "not named; its outputs were read from the cache cache-4"
    assert "Weights of the losses" in rows
    known = cached | {"teacher_weights": ["0123456789abcdef" * 4]}
    assert "0123456789ab..." in rows_of_the_card(RECORD | {"model": known})["Teacher"]
    plain = RECORD["model"] | {"distilled": False, "teacher": "unused"}
    assert "Teacher" not in rows_of_the_card(RECORD | {"model": plain})


def test_a_saved_record_is_read_again(tmp_path: Path) -> None:
    TrainingRecord(RECORD).save(tmp_path)
    assert TrainingRecord.load(tmp_path).content == RECORD
