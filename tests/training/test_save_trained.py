"""What is saved beside the weights of a trained model; the scripts are tested in tests/examples."""

import json
from types import SimpleNamespace

import pytest

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.deployment.model_card import card_for_folder
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.models import ModelArguments
from mlcak_hf.training.record import arguments_entry, model_entry
from mlcak_hf.training.setup import StudentArguments, set_outdated_card_aside

TINY = {"model_type": "vit", "image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 8}
TINY |= {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


@pytest.fixture
def trained(tmp_path):
    """The folder of a trained model."""
    folder = tmp_path / "dr_smith" / "trained"
    MLCAKForCXRClassification(MLCAKConfig(backbone_config=TINY)).save_pretrained(folder)
    MLCAKImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    return folder


def trainer(output, teachers=None, cache=None):
    args = SimpleNamespace(output_dir=str(output))
    return SimpleNamespace(args=args, teachers=teachers, teacher_cache=cache)


def test_no_argument_keeps_a_local_folder(tmp_path):
    private = tmp_path / "dr_smith"
    args = MLCAKTrainingArguments(
        output_dir=str(private / "out"),
        run_name=str(private / "run-3"),
        resume_from_checkpoint=str(private / "out" / "checkpoint-5"),
        lr_scheduler_kwargs={"file": str(private / "schedule.json")},
        report_to="none",
        use_cpu=True,
    )
    recorded = arguments_entry(args)
    assert "dr_smith" not in json.dumps(recorded)
    assert recorded["run_name"] == "run-3"
    assert recorded["resume_from_checkpoint"] == "checkpoint-5"
    assert "schedule.json" in recorded["lr_scheduler_kwargs"]
    assert recorded["optim"] == "adamw_torch" or "/" not in recorded["optim"]
    assert recorded["learning_rate"] == args.learning_rate


def test_several_teachers_are_listed(tmp_path):
    arguments = StudentArguments(teacher=["/home/dr_smith/a", "owner/b"], teacher_cache="/x/cache")
    described = model_entry(trainer(tmp_path), arguments)
    assert (described["teacher"], described["teacher_cache"]) == (["a", "owner/b"], "cache")


def test_the_origin_is_what_was_started_from(trained, tmp_path):
    def initial(output="out", **arguments):
        found = model_entry(trainer(tmp_path / output), ModelArguments(**arguments))
        return found["initial_weights"], found["backbone_on_hub"]

    assert initial(model="student-tiny-28") == ("random", False)
    assert initial(model=str(trained)) == ("model", False)
    assert initial(model="owner/student") == ("model", False)
    assert initial(model="student-tiny-28", backbone=str(trained)) == ("backbone", False)
    assert initial(model="student-tiny-28", backbone="google/vit") == ("backbone", True)
    assert initial(output="dr_smith/trained", model=str(trained)) == ("unknown", False)


def test_the_origin_tells_a_distilled_student_from_a_plain_one(tmp_path):
    arguments = StudentArguments(teacher=["teacher"])
    assert not model_entry(trainer(tmp_path), arguments)["distilled"]
    assert model_entry(trainer(tmp_path, teachers=object()), arguments)["distilled"]
    cache = SimpleNamespace(key={"teacher weights": ["0" * 64]})
    origin = model_entry(trainer(tmp_path, teachers=object(), cache=cache), StudentArguments(teacher_cache="cache"))
    assert (origin["distilled"], origin["teacher_weights"]) == (True, ["0" * 64])


def test_only_a_card_generated_for_other_weights_is_renamed(trained):
    card = trained / "README.md"
    card.write_text("# My own notes")
    set_outdated_card_aside(trained)
    assert card.read_text() == "# My own notes"
    card_for_folder(trained).save(card)
    generated = card.read_text()
    set_outdated_card_aside(trained)
    assert card.read_text() == generated
    MLCAKForCXRClassification(MLCAKConfig(backbone_config=TINY)).save_pretrained(trained)
    set_outdated_card_aside(trained)
    assert not card.exists()
    assert (trained / "README.earlier.md").read_text() == generated
