"""What a training script recorded is what the card shows, and what the data lacked is a limit."""

import copy
import json
from pathlib import Path

import pytest

from mlcak_hf import MLCAKConfig, MLCAKImageProcessor
from mlcak_hf.deployment.model_card import card_for_folder
from mlcak_hf.deployment.training_record import TrainingRecord
from mlcak_hf.errors import DeploymentError

RECORD = {
    "script": "distil_student",
    "model": {
        "distilled": True,
        "initial_weights": "random",
        "backbone_on_hub": False,
        "model": "student-tiny-28",
        "backbone": None,
        "teacher": "teacher-224",
        "local_loss_weight": 0.5,
    },
    "data": {"dataset": "phantoms", "preparation": {"aggregation": "majority"}},
    "views": {"rotation_deg": 10.0, "shift": 0.05},
    "arguments": {
        "alpha": 1.0,
        "beta": 0.5,
        "gamma": 2.0,
        "logit_loss": "mse",
        "attention_loss": "kl",
        "attention_aggregation": "mean",
        "gradient_accumulation_steps": 4,
        "per_device_train_batch_size": 32,
        "optim": "adamw_torch",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.05,
        "seed": 7,
    },
    "train": {
        "rows": 600,
        "global": {"Normal": 400, "Abnormal": 200},
        "local": {"Edema": [50, 600], "ILD": [0, 0], "Rib fracture": [0, 600], "Emphysema": [3, 600]},
    },
    "validation": {"rows": 100, "global": {"Normal": 60, "Abnormal": 40}},
    "epochs": 12.0,
    "steps": 240,
}


def test_rows_are_the_recorded_choices() -> None:
    rows = TrainingRecord.from_json(RECORD).rows
    assert rows["Dataset"] == "phantoms"
    assert rows["Training images"] == "600 (400 Normal, 200 Abnormal)"
    assert rows["Teacher"] == "teacher-224"
    assert rows["Weights of the losses"] == "alpha 1, beta 0.5, gamma 2"
    assert rows["Loss on attention"] == "kl, mean"
    assert rows["Batch"] == "32 per process, accumulated over 4"
    assert rows["Epochs, steps"] == "12, 240"
    assert "trained from scratch" in rows["Initial weights"]
    assert rows["Seed"] == 7


def test_a_plain_student_names_no_teacher() -> None:
    record = copy.deepcopy(RECORD)
    record["arguments"] |= {"alpha": 0.0, "beta": 0.0, "gamma": 0.0}
    assert "Teacher" not in TrainingRecord.from_json(record).rows
    assert "Loss on logits" not in TrainingRecord.from_json(record).rows


def test_what_the_data_lacked_is_a_limit() -> None:
    unknown, absent, few = TrainingRecord.from_json(RECORD).limits
    assert "mean nothing: ILD." in unknown
    assert "No positive image in training" in absent
    assert "Rib fracture." in absent
    assert "Emphysema (3)." in few
    assert not any("Edema" in limit for limit in (unknown, absent, few))


def test_the_card_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    MLCAKConfig().save_pretrained(folder)
    MLCAKImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)
    assert "Not recorded." in card_for_folder(folder).content
    (folder / "training.json").write_text(json.dumps(RECORD))
    card = card_for_folder(folder, limits=["Synthetic."])
    assert "# student\n" in card.content
    assert "| Training images | 600 (400 Normal, 200 Abnormal) |" in card.content
    assert "- Synthetic.\n" in card.content
    assert "mean nothing: ILD." in card.content
    assert card.data.base_model is None


@pytest.mark.parametrize(
    ("backbone", "named"), [("google/vit-base-patch16-224", True), ("/data/models/vit", False), ("a/b/c", False)]
)
def test_only_a_backbone_on_the_hub_is_named_in_the_metadata(tmp_path: Path, backbone: str, named: bool) -> None:
    MLCAKConfig().save_pretrained(tmp_path)
    MLCAKImageProcessor(size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    model = {name: value for name, value in RECORD["model"].items() if name != "backbone_on_hub"}  # an old record
    record = RECORD | {"model": model | {"backbone": backbone}}
    (tmp_path / "training.json").write_text(json.dumps(record))
    card = card_for_folder(tmp_path)
    assert card.data.base_model == (backbone if named else None)
    assert "/data/models" not in card.content


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=r"gone\.json"):
        TrainingRecord.from_json(tmp_path / "gone.json")
    with pytest.raises(DeploymentError, match="no record of training"):
        TrainingRecord.from_json({"rows": 1})
    with pytest.raises(DeploymentError, match=r"config\.json"):
        card_for_folder(tmp_path)


@pytest.mark.parametrize(
    ("model", "initial", "base"),
    [
        ({"model": "student-tiny-28", "initial_weights": "random"}, "trained from scratch", None),
        ({"model": "student-a", "initial_weights": "model"}, "those of student-a", None),
        ({"model": "student-a"}, "not recorded", None),
        ({"model": "student-tiny-28"}, "not recorded", None),
        ({"model": "student-tiny-28", "backbone": "vit", "backbone_on_hub": False}, "vit (a local folder)", None),
        ({"model": "student-tiny-28", "backbone": "owner/vit", "backbone_on_hub": True}, "owner/vit", "owner/vit"),
        ({"model": "student-tiny-28", "backbone": "last-part"}, "last-part", None),
    ],
)
def test_a_card_claims_no_origin_that_was_not_recorded(model, initial, base):
    made = TrainingRecord.from_json(RECORD | {"model": model})
    assert initial in made.rows["Initial weights"]
    assert made.base_model == base


def test_a_student_of_a_cache_is_no_plain_student():
    made = TrainingRecord.from_json(RECORD | {"model": {"model": "x", "distilled": True, "teacher_cache": "cache-4"}})
    assert made.rows["Teacher"].endswith("read from cache-4")
    assert "Weights of the losses" in made.rows
    known = {"model": "x", "distilled": True, "teacher_cache": "cache-4", "teacher_weights": ["0123456789abcdef" * 4]}
    assert "0123456789ab..." in TrainingRecord.from_json(RECORD | {"model": known}).rows["Teacher"]
    old = TrainingRecord.from_json(RECORD | {"model": {"model": "x", "teacher": None, "teacher_cache": "cache-4"}})
    assert old.rows["Teacher"] == "not named; what it knows was read from cache-4"
    plain = TrainingRecord.from_json(RECORD | {"model": {"model": "x", "distilled": False, "teacher": "unused"}})
    assert "Teacher" not in plain.rows
