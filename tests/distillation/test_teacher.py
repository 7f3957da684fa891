"""A teacher is frozen when loaded, and refused with what differs when it cannot teach a student."""

import pytest
import torch
from toys import FINDINGS, toy_model
from transformers import ViTConfig, ViTForImageClassification

from mlcak_hf.distillation.attention import AttentionOptions
from mlcak_hf.distillation.teacher_files import load_teacher
from mlcak_hf.distillation.teachers import Teachers
from mlcak_hf.errors import DistillationError


def check_teacher(teacher, student, **options):
    (alignment,) = Teachers(teacher, student, AttentionOptions(**options)).alignments
    return alignment


def test_a_teacher_loaded_from_its_folder_is_frozen_and_the_same(tmp_path):
    model = toy_model(dropout=0.5).train()
    model.save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, teacher.state_dict()[name]), name


def test_a_model_becomes_a_teacher_in_place():
    model = toy_model().train()
    assert load_teacher(model) is model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_attention_of_another_kind_of_model_is_refused(tmp_path):
    vit = ViTForImageClassification(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=16))
    with pytest.raises(DistillationError, match="got only ViTForImageClassification"):
        Teachers(vit, toy_model())
    with pytest.raises(DistillationError, match="nowhere"):
        Teachers(tmp_path / "nowhere", toy_model())


def test_levels_and_grids_are_paired():
    alignment = check_teacher(toy_model(32, 4, layers=4), toy_model(16, 4, layers=2))
    assert (alignment.student_levels, alignment.teacher_levels) == ([0, 1], [1, 3])
    assert (alignment.student.grid, alignment.teacher.grid) == ((4, 4), (8, 8))


def test_levels_are_positions_among_those_that_a_config_returns():
    teacher = toy_model(16, 4, layers=6, attention_levels=[1, 3, 5])
    student = toy_model(16, 4, layers=3, attention_levels=[0, 2])
    alignment = check_teacher(teacher, student, student_levels=[-1])
    assert (alignment.student_levels, alignment.teacher_levels) == ([1], [2])


def test_prefix_tokens_of_other_backbones_are_merged():
    alignment = check_teacher(toy_model(model_type="deit"), toy_model())
    assert (alignment.teacher.prefix_tokens, alignment.student.prefix_tokens) == (2, 1)


def test_a_student_without_local_head_is_taught_global_logits():
    assert check_teacher(toy_model(), toy_model(findings=[]), enabled=False) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"id2label": {0: "Normal", 1: "Pneumonia"}},
            r"global labels.*\['Abnormal'\] only in the teacher.*\['Pneumonia'\]",
        ),
        ({"id2label": {0: "Abnormal", 1: "Normal"}}, "global labels.*same order"),
        ({"findings": [*FINDINGS[:2], "Edema"]}, r"local findings.*\['Cardiomegaly'\].*\['Edema'\]"),
        ({"findings": FINDINGS[::-1]}, "local findings.*same order"),
        (
            {"problem_type": "multi_label_classification"},
            r"got single_label\w+ \(teacher\) and multi_label\w+ \(student\)",
        ),
    ],
)
def test_a_teacher_with_other_labels_is_refused(changes, message):
    with pytest.raises(DistillationError, match=message):
        check_teacher(toy_model(), toy_model(**changes))


def test_levels_that_do_not_exist_are_refused():
    teacher, student = toy_model(layers=4), toy_model(layers=2)
    with pytest.raises(DistillationError, match=r"student_levels must be between -2 and 1.*2 layers; got \[2\]"):
        check_teacher(teacher, student, student_levels=[0, 2])
    with pytest.raises(DistillationError, match=r"student's attention_levels must include layers \[0\]; got \[1\]"):
        check_teacher(teacher, toy_model(layers=2, attention_levels=[1]), student_levels=[0])
    with pytest.raises(DistillationError, match=r"teacher's attention_levels must include layers \[1\]; got \[3\]"):
        check_teacher(toy_model(layers=4, attention_levels=[3]), student)


def test_the_attention_of_several_teachers_is_averaged():
    models = [toy_model(32, 4, layers=4, seed=seed) for seed in (2, 3)]
    pixels = torch.rand(2, 1, 32, 32)
    batch = {"teacher_pixel_values": pixels, "teacher_pixel_values_2": pixels}
    both = Teachers(models, toy_model(seed=1))(batch).attention
    alone = [Teachers(model, toy_model(seed=1))(batch).attention for model in models]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)
    assert not torch.allclose(alone[0], alone[1], atol=1e-4)
