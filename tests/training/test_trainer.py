"""MLCAKTrainer: the loss by hand, the teacher kept out, accumulation, precision, checkpointing and logs."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from toys import FINDINGS, KeepGradients, assert_close, make_trainer, toy_collator, toy_model, toy_rows, weights_of

from mlcak_hf.errors import DistillationError
from mlcak_hf.training.objective import smooth_labels


def training_logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


# The loss


def loss_by_hand(student, teacher, batch, alpha, beta, gamma):
    """The whole loss of a batch, written out for normalized_mse of the mean map with a teacher of a 2x finer grid."""
    ours = student(batch["pixel_values"], output_attentions=True)
    with torch.no_grad():
        theirs = teacher(batch["teacher_pixel_values"], output_attentions=True)
    images = len(batch["labels"])
    known = [i for i in range(images) if batch["labels"][i] >= 0]
    parts = {"loss_global": sum(F.cross_entropy(ours.logits[i], batch["labels"][i]) for i in known) / images}
    bce = F.binary_cross_entropy_with_logits(ours.local_logits, batch["local_targets"].clamp(0, 1), reduction="none")
    parts["loss_local"] = bce[batch["local_targets"] >= 0].sum() / images / len(FINDINGS)
    parts["distil_global"] = F.mse_loss(ours.logits, theirs.logits)
    parts["distil_local"] = F.mse_loss(ours.local_logits, theirs.local_logits)
    student_map = sum(ours.attentions) / 2
    teacher_map = (theirs.attentions[1] + theirs.attentions[3]) / 2
    patch = lambda row, column: 1 + 8 * row + column  # noqa: E731
    groups = [[0]] + [[patch(2 * r + i, 2 * c + j) for i in (0, 1) for j in (0, 1)] for r in range(4) for c in range(4)]
    pooled = torch.stack([teacher_map[:, group].mean(1) for group in groups], dim=1)
    pooled = torch.stack([pooled[:, :, group].sum(2) for group in groups], dim=2)
    distance = ((pooled - student_map) ** 2).sum((1, 2)) / (pooled**2).sum((1, 2))
    parts["distil_attention"] = distance.mean()
    lambda_ = student.config.local_loss_weight
    parts["loss"] = (
        parts["loss_global"]
        + lambda_ * parts["loss_local"]
        + alpha * parts["distil_local"]
        + beta * parts["distil_global"]
        + gamma * parts["distil_attention"]
    )
    return parts


def test_the_logged_loss_and_all_its_parts_equal_the_equation(tmp_path):
    rows = toy_rows(6)
    student, teacher = toy_model(seed=1, local_loss_weight=0.7), toy_model(32, 4, layers=4, seed=2)
    expected = loss_by_hand(student, teacher, toy_collator()(rows), alpha=0.5, beta=2.0, gamma=3.0)
    trainer = make_trainer(
        tmp_path, student, teacher, rows, max_steps=1, per_device_train_batch_size=6, alpha=0.5, beta=2.0, gamma=3.0
    )
    trainer.train()
    log = training_logs(trainer)[0]
    for name, value in expected.items():
        assert log[name] == pytest.approx(value.item(), rel=1e-5), name


def test_every_part_falls_when_a_student_imitates(tmp_path):
    trainer = make_trainer(tmp_path, num_train_epochs=60, optim="adamw_torch", learning_rate=3e-3, logging_steps=30)
    trainer.train()
    first, last = training_logs(trainer)[0], training_logs(trainer)[-1]
    for part in ("distil_global", "distil_local", "distil_attention"):
        assert last[part] < first[part], part


@pytest.mark.parametrize(
    "choices", [{"logit_loss": "kl", "temperature": 3.0}, {"attention_loss": "kl"}, {"attention_loss": "mse"}]
)
@pytest.mark.parametrize("aggregation", ["mean", "per_level"])
def test_every_kind_of_loss_trains(tmp_path, choices, aggregation):
    trainer = make_trainer(tmp_path, max_steps=2, attention_aggregation=aggregation, **choices)
    trainer.train()
    assert all(
        math.isfinite(entry["distil_attention"]) and entry["distil_global"] > 0 for entry in training_logs(trainer)
    )


def test_a_log_is_the_mean_over_images_since_the_last_one(tmp_path):
    """Batches of 4, 4 and 2 images: the log of three steps counts every image once."""
    rows = toy_rows(10)
    frozen = {"learning_rate": 0.0, "num_train_epochs": 1}
    single = make_trainer(tmp_path, rows=rows, **frozen)
    single.train()
    joint = make_trainer(tmp_path, rows=rows, logging_steps=3, **frozen)
    joint.train()
    steps, (whole,) = training_logs(single), training_logs(joint)
    for part in ("loss_global", "loss_local", "distil_global", "distil_local", "distil_attention"):
        expected = sum(n * step[part] for n, step in zip((4, 4, 2), steps, strict=True)) / 10
        assert whole[part] == pytest.approx(expected, rel=1e-5), part


# Accumulation


@pytest.mark.parametrize(
    "choices", [{}, {"attention_loss": "kl", "attention_aggregation": "per_level", "logit_loss": "kl"}]
)
def test_accumulation_with_unequal_masks_and_a_short_last_micro_batch_equals_one_big_batch(tmp_path, choices):
    """10 images as 4 + 4 + 2; a third of the labels missing, one micro-batch without any global label."""
    rows = toy_rows(10, seed=5)
    results = []
    for size, steps in ((10, 1), (4, 3)):
        keep = KeepGradients()
        trainer = make_trainer(
            tmp_path, rows=rows, callbacks=[keep], num_train_epochs=4, per_device_train_batch_size=size,
            gradient_accumulation_steps=steps, **choices,
        )  # fmt: skip
        trainer.train()
        results.append((keep.steps, weights_of(trainer), training_logs(trainer)))
    (one, weights, log), (several, other_weights, other_log) = results
    assert len(one) == len(several) == 4
    for ours, theirs in zip(several, one, strict=True):
        assert_close(ours, theirs)
    assert_close(other_weights, weights)
    for ours, theirs in zip(other_log, log, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["distil_attention"] == pytest.approx(theirs["distil_attention"], rel=1e-5)


def test_a_batch_without_labels_trains_by_distillation_alone(tmp_path):
    rows = [row | {"labels": -1, "local_targets": np.full(3, -1, np.float32)} for row in toy_rows(4)]
    keep = KeepGradients()
    trainer = make_trainer(tmp_path, rows=rows, callbacks=[keep], max_steps=1)
    trainer.train()
    log = training_logs(trainer)[0]
    assert log["loss_global"] == log["loss_local"] == 0.0
    assert log["loss"] == pytest.approx(log["distil_global"] + log["distil_local"] + log["distil_attention"], rel=1e-5)
    assert all(gradient.isfinite().all() for gradient in keep.steps[0].values())


@pytest.mark.parametrize(
    "choices", [{}, {"gamma": 0.0}, {"alpha": 0.0, "beta": 0.0}, {"alpha": 0.0, "beta": 0.0, "gamma": 0.0}]
)
def test_every_parameter_gets_a_gradient(tmp_path, choices):
    """DDP hangs or raises on a parameter that none reaches."""
    trainer = make_trainer(tmp_path, **choices)
    trainer.model.train()
    batch = trainer.data_collator(toy_rows(3))
    trainer.compute_loss(trainer.model, batch).backward()
    assert [name for name, parameter in trainer.model.named_parameters() if parameter.grad is None] == []


# The teacher


def test_the_teacher_stays_as_it_is_and_out_of_everything_saved(tmp_path):
    teacher = toy_model(32, 4, layers=4, seed=2, dropout=0.5)
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    trainer = make_trainer(tmp_path, teacher=teacher, save_strategy="steps", save_steps=2, max_steps=2)
    trainer.train()
    assert trainer.teacher is teacher
    assert not teacher.training
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(module is teacher for module in trainer.model_wrapped.modules())
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in trainer.model.parameters()}
    saved = load_file(Path(tmp_path) / "checkpoint-2" / "model.safetensors")
    assert saved.keys() == trainer.model.state_dict().keys()


def test_a_teacher_loaded_by_the_trainer_returns_only_the_levels_it_teaches(tmp_path):
    toy_model(32, 4, layers=4, seed=2).save_pretrained(tmp_path / "teacher")
    by_path = make_trainer(tmp_path, teacher=str(tmp_path / "teacher"), max_steps=2)
    by_path.train()
    assert by_path.teacher.config.resolved_attention_levels == [1, 3]
    by_model = make_trainer(tmp_path, max_steps=2)
    by_model.train()
    # Levels that are not captured are computed another way, equal but for rounding.
    theirs = training_logs(by_model)[-1]["distil_attention"]
    assert training_logs(by_path)[-1]["distil_attention"] == pytest.approx(theirs, rel=1e-6)


def calls_of(model, monkeypatch):
    calls = []
    forward = model.forward

    def spy(*args, **kwargs):
        calls.append(kwargs.get("output_attentions"))
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", spy)
    return calls


def test_without_gamma_no_attention_is_computed(tmp_path, monkeypatch):
    student, teacher = toy_model(seed=1), toy_model(32, 4, layers=4, seed=2)
    calls = calls_of(student, monkeypatch) + calls_of(teacher, monkeypatch)
    trainer = make_trainer(tmp_path, student, teacher, gamma=0.0, max_steps=1)
    student_calls, teacher_calls = calls_of(student, monkeypatch), calls_of(trainer.teacher, monkeypatch)
    trainer.train()
    assert calls == []
    assert student_calls == teacher_calls == [False]
    assert "distil_attention" not in training_logs(trainer)[0]


def test_all_weights_zero_is_a_plain_student_without_teacher(tmp_path):
    rows = toy_rows()
    zero = make_trainer(tmp_path, rows=rows, alpha=0.0, beta=0.0, gamma=0.0)
    assert zero.teacher is None
    plain = make_trainer(tmp_path, teacher=None, rows=rows, collator=toy_collator(teacher_size=None))
    for trainer in (zero, plain):
        trainer.train()
        assert set(training_logs(trainer)[0]) >= {"loss_global", "loss_local"}
        assert not any(key.startswith("distil") for key in training_logs(trainer)[0])
    assert all(torch.equal(weight, weights_of(plain)[name]) for name, weight in weights_of(zero).items())


def test_a_student_without_local_head_is_taught_by_a_teacher_with_one(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "local_targets"} for row in toy_rows()]
    student = toy_model(seed=1, findings=[])
    trainer = make_trainer(tmp_path, student, rows=rows, evaluate=rows[:3], max_steps=2)
    trainer.train()
    assert {"loss_global", "distil_global", "distil_attention"} <= set(training_logs(trainer)[0])
    assert not {"loss_local", "distil_local"} & set(training_logs(trainer)[0])
    assert "eval_loss" in trainer.evaluate()


def test_a_multi_label_global_head_is_distilled_label_by_label(tmp_path):
    labels = {"id2label": {0: "COPD", 1: "Pneumonia", 2: "Tuberculosis"}, "problem_type": "multi_label_classification"}
    rows = [row | {"labels": np.float32([1, 0, -1])} for row in toy_rows()]
    trainer = make_trainer(
        tmp_path,
        toy_model(seed=1, **labels),
        toy_model(32, 4, layers=4, seed=2, **labels),
        rows,
        logit_loss="kl",
        max_steps=2,
    )
    trainer.train()
    assert training_logs(trainer)[-1]["distil_global"] > 0


def test_models_that_do_not_match_are_refused_at_once(tmp_path):
    with pytest.raises(DistillationError, match="local findings"):
        make_trainer(tmp_path, teacher=toy_model(findings=["Edema"]))
    student = toy_model(seed=1)
    with pytest.raises(DistillationError, match="same object"):
        make_trainer(tmp_path, student, teacher=student)
    trainer = make_trainer(tmp_path, collator=toy_collator(teacher_size=None))
    with pytest.raises(DistillationError, match="teacher_processor"):
        trainer.train()


# Evaluation


def test_evaluation_is_classification_of_the_stored_images(tmp_path):
    rows = toy_rows(7)
    seen = []

    def compute_metrics(prediction):
        seen.append(prediction)
        return {"n": len(prediction.predictions[0])}

    trainer = make_trainer(tmp_path, evaluate=rows, per_device_eval_batch_size=3)
    trainer.compute_metrics = compute_metrics
    metrics = trainer.evaluate()
    batch = toy_collator(teacher_size=None, views=False)(rows)
    with torch.no_grad():
        expected = trainer.model.eval()(**batch)
    (prediction,) = seen
    assert metrics["eval_n"] == 7
    assert metrics["eval_loss"] == pytest.approx(float(expected.loss), rel=1e-5)
    assert len(prediction.predictions) == 2, "attention and parts of the loss must not be gathered"
    np.testing.assert_allclose(prediction.predictions[0], expected.logits, atol=1e-6)
    np.testing.assert_allclose(prediction.predictions[1], expected.local_logits, atol=1e-6)
    assert len(prediction.label_ids) == 2
    np.testing.assert_array_equal(prediction.label_ids[1], batch["local_targets"])
    assert trainer.data_collator.teacher_processors, "training keeps its collator"


# Precision and checkpointing


def test_bf16_trains_student_and_teacher_in_bf16_and_loses_little(tmp_path):
    dtypes = set()
    teacher = toy_model(32, 4, layers=4, seed=2)
    teacher.backbone.register_forward_hook(lambda module, inputs, output: dtypes.add(output.attentions[0].dtype))
    query = next(module for name, module in teacher.named_modules() if name.endswith("q_proj"))
    query.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    half = make_trainer(tmp_path, teacher=teacher, bf16=True, max_steps=2)
    half.train()
    assert torch.bfloat16 in dtypes
    full = make_trainer(tmp_path, max_steps=2)
    full.train()
    for name in ("loss", "distil_global", "distil_attention"):
        assert training_logs(half)[0][name] == pytest.approx(training_logs(full)[0][name], rel=0.1), name


def test_checkpointing_gives_the_same_gradients(tmp_path):
    gradients = []
    for checkpointing in (False, True):
        keep = KeepGradients()
        trainer = make_trainer(
            tmp_path, callbacks=[keep], max_steps=1, gradient_checkpointing=checkpointing, gamma=10.0
        )
        trainer.train()
        assert trainer.model.is_gradient_checkpointing is checkpointing
        gradients.append(keep.steps[0])
    assert_close(gradients[1], gradients[0])


@pytest.mark.slow
def test_a_compiled_student_is_taught_the_same(tmp_path):
    compiled = make_trainer(tmp_path, max_steps=2, torch_compile=True, torch_compile_backend="aot_eager")
    plain = make_trainer(tmp_path, max_steps=2)
    for trainer in (compiled, plain):
        trainer.train()
    for ours, theirs in zip(training_logs(compiled), training_logs(plain), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["distil_attention"] == pytest.approx(theirs["distil_attention"], rel=1e-5)


# What is refused before anything is trained


@pytest.mark.parametrize("choices", [{"alpha": 0.0, "beta": 0.0, "gamma": 0.0}, {"teacher": None}])
def test_a_dataset_without_a_label_and_without_a_teacher_is_refused(tmp_path, choices):
    class Unlabelled(list):
        @property
        def targets(self):
            return {"labels": np.full(4, -1), "local_targets": np.full((4, 3), -1.0)}

    rows = Unlabelled(row | {"labels": -1, "local_targets": np.full(3, -1, np.float32)} for row in toy_rows(4))
    with pytest.raises(DistillationError, match="no image of the dataset has a label"):
        make_trainer(tmp_path, rows=rows, **choices)
    make_trainer(tmp_path, rows=rows)


def test_a_teacher_without_captured_attention_is_refused(tmp_path):
    teacher = toy_model(32, 4, layers=4, seed=2)
    teacher.set_attn_implementation("sdpa")
    with pytest.raises(DistillationError, match=r"teacher.set_attn_implementation\('mlcak'\)"):
        make_trainer(tmp_path, teacher=teacher)
    make_trainer(tmp_path, teacher=teacher, gamma=0.0)


@pytest.mark.parametrize("kept", ["labels", "local_targets"])
def test_rows_with_labels_of_one_kind_are_evaluated_by_them(tmp_path, kept):
    """The Trainer alone would return neither loss nor metrics, and say nothing."""
    rows = [row for row in toy_rows(8, seed=9) if (np.asarray(row[kept]) >= 0).any()]
    one_kind = [
        {name: value for name, value in row.items() if name not in ("labels", "local_targets") or name == kept}
        for row in rows
    ]
    missing = {"labels": -1, "local_targets": np.full(3, -1.0, np.float32)}
    marked = [missing | row for row in one_kind]
    trainer = make_trainer(tmp_path, compute_metrics=lambda predicted: {"rows": len(predicted.predictions[0])})
    found, expected = trainer.evaluate(one_kind), trainer.evaluate(marked)
    assert found["eval_loss"] == expected["eval_loss"] > 0
    assert found["eval_rows"] == len(rows)


def test_smoothed_labels_give_the_loss_of_torch_and_evaluation_stays_as_it_is(tmp_path):
    rows = toy_rows(6)
    trainers = [
        make_trainer(
            tmp_path, toy_model(seed=1), None, rows, evaluate=rows, max_steps=1, per_device_train_batch_size=6,
            learning_rate=0.0, label_smoothing_factor=factor,
        )
        for factor in (0.2, 0.0)
    ]  # fmt: skip
    smoothed, plain = ((trainer.train(), trainer.evaluate()["eval_loss"])[1] for trainer in trainers)
    assert smoothed == plain
    batch = toy_collator()(rows)
    outputs, known = toy_model(seed=1)(batch["pixel_values"]), batch["labels"] >= 0
    expected = F.cross_entropy(outputs.logits[known], batch["labels"][known], label_smoothing=0.2, reduction="sum") / 6
    (log,) = training_logs(trainers[0])
    assert log["loss_global"] == pytest.approx(expected.item(), rel=1e-5)
    targets = batch["local_targets"]
    bce = F.binary_cross_entropy_with_logits(outputs.local_logits, targets * 0.8 + 0.1, reduction="none")
    assert log["loss_local"] == pytest.approx((bce[targets >= 0].sum() / 6 / len(FINDINGS)).item(), rel=1e-5)


def test_soft_labels_and_several_global_labels_are_smoothed_too():
    soft = torch.tensor([[0.9, 0.1], [-1.0, -1.0]])
    single = smooth_labels({"labels": soft, "local_targets": None}, 0.1, toy_model().config)
    torch.testing.assert_close(single["labels"], torch.tensor([[0.86, 0.14], [-1.0, -1.0]]))
    three = {"id2label": {0: "a", 1: "b", 2: "c"}}
    hard = smooth_labels({"labels": torch.tensor([2, -1])}, 0.3, toy_model(**three).config)["labels"]
    torch.testing.assert_close(hard, torch.tensor([[0.1, 0.1, 0.8], [-1.0, -1.0, -1.0]]))
    several = toy_model(problem_type="multi_label_classification", **three).config
    labels = smooth_labels({"labels": torch.tensor([[1.0, 0.0, -1.0]])}, 0.2, several)["labels"]
    torch.testing.assert_close(labels, torch.tensor([[0.9, 0.1, -1.0]]))
