"""Models with a convolutional trunk train as exactly as linear ones, and teach each other."""

import pytest
import torch
from toys import KeepGradients, StopAt, assert_close, make_trainer, toy_model, toy_rows, weights_of

CONV = {"patch_embedding": "conv", "trunk_widths": [8, 8, 16]}


def training_logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_accumulation_with_a_short_last_micro_batch_equals_one_big_batch(tmp_path):
    rows, results = toy_rows(10, seed=5), []
    for size, steps in ((10, 1), (4, 3)):
        keep = KeepGradients()
        trainer = make_trainer(
            tmp_path, toy_model(seed=1, **CONV), rows=rows, callbacks=[keep], num_train_epochs=3,
            per_device_train_batch_size=size, gradient_accumulation_steps=steps,
        )  # fmt: skip
        trainer.train()
        results.append((keep.steps, weights_of(trainer)))
    (one, weights), (several, other_weights) = results
    assert len(one) == len(several) == 3
    for ours, theirs in zip(several, one, strict=True):
        assert_close(ours, theirs)
    assert_close(other_weights, weights)


def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    choices = {"optim": "adamw_torch", "num_train_epochs": 3, "lr_scheduler_type": "cosine"}
    whole = make_trainer(tmp_path / "whole", toy_model(seed=1, dropout=0.2, **CONV), **choices)
    whole.train()
    parts = make_trainer(tmp_path / "parts", toy_model(seed=1, dropout=0.2, **CONV), callbacks=[StopAt(4)], **choices)
    parts.train()
    resumed = make_trainer(tmp_path / "parts", toy_model(seed=2, dropout=0.2, **CONV), **choices)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 9
    for name, weight in weights_of(resumed).items():
        assert torch.equal(weight, weights_of(whole)[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "teacher", "patch"),
    # A fourth block for patches of 8 px: the grid of a student at 16 px. With 4 px, the teacher's grid is finer.
    [(CONV, {}, 8), ({}, CONV | {"trunk_widths": [8] * 4}, 8), (CONV, CONV, 4)],
    ids=["conv from linear", "linear from conv", "conv from a finer conv"],
)
def test_a_student_imitates_a_teacher_of_either_embedding(tmp_path, student, teacher, patch):
    trainer = make_trainer(
        tmp_path, toy_model(seed=1, **student), toy_model(32, patch, layers=4, seed=2, **teacher),
        num_train_epochs=16, optim="adamw_torch", learning_rate=3e-3, logging_steps=12,
    )  # fmt: skip
    trainer.train()
    first, last = training_logs(trainer)[0], training_logs(trainer)[-1]
    for part in ("distil_global", "distil_local", "distil_attention"):
        assert last[part] < first[part], part


def test_weight_decay_spares_norms_and_biases(tmp_path):
    student = toy_model(seed=1, **CONV)
    decayed = make_trainer(tmp_path, student).get_decay_parameter_names(student)
    trunk = [name for name in student.state_dict() if "projection." in name]
    assert trunk
    for name in trunk:
        assert (name in decayed) == (".norm." not in name and not name.endswith("bias")), name
