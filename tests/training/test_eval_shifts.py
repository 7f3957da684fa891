"""Evaluation under fixed perturbations: their mean is logged, can choose the checkpoint, and is off by default."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from toys import make_trainer, toy_collator, toy_model, toy_rows, weights_of

from mlcak_hf.data.shifts import SHIFTS
from mlcak_hf.errors import DistillationError, RecipeError
from mlcak_hf.evaluation.metrics import make_compute_metrics
from mlcak_hf.training.arguments import MLCAKTrainingArguments

ROWS = [row | {"labels": row["index"] % 2} for row in toy_rows(8, seed=9)]
SHIFTED = "eval_auroc_global_shifted"


def trainer_with_shifts(folder, **choices):
    student = toy_model(seed=1)
    return make_trainer(
        folder, student, evaluate=ROWS, compute_metrics=make_compute_metrics(student.config),
        per_device_eval_batch_size=3, **{"eval_shifts": True} | choices,
    )  # fmt: skip


def auroc_by_hand(trainer, shift):
    collator = toy_collator(teacher_size=None, views=False)
    pixels = np.stack([SHIFTS[shift].pixels(row["image"], row["index"], [16])[0] for row in ROWS])
    with torch.no_grad():
        logits = trainer.model.eval()(torch.from_numpy(collator.processor.reduce(pixels))).logits
    return roc_auc_score([row["labels"] for row in ROWS], logits.softmax(dim=1)[:, 1])


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (1, True)])
def test_the_logged_number_is_the_mean_over_the_perturbations(tmp_path, workers, persistent):
    trainer = trainer_with_shifts(tmp_path, dataloader_num_workers=workers, dataloader_persistent_workers=persistent)
    metrics, again = trainer.evaluate(), trainer.evaluate()
    expected = {shift: auroc_by_hand(trainer, shift) for shift in SHIFTS}
    for shift, value in expected.items():
        assert metrics[f"{SHIFTED}/{shift}"] == pytest.approx(value), shift
    assert len({round(value, 6) for value in expected.values()}) > 1
    assert metrics[SHIFTED] == again[SHIFTED] == pytest.approx(np.mean(list(expected.values())))
    (logged, _) = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert logged[SHIFTED] == metrics[SHIFTED], "in the same entry as the loss"


def test_other_metrics_are_those_without_perturbations(tmp_path):
    with_shifts, without = (
        trainer_with_shifts(tmp_path).evaluate(),
        trainer_with_shifts(tmp_path, eval_shifts=False).evaluate(),
    )
    assert not [name for name in without if "shifted" in name]
    for name in ("eval_loss", "eval_auroc_global", "eval_auroc_local_macro"):
        assert with_shifts[name] == without[name], name


@pytest.mark.slow
def test_training_is_the_same_with_and_without(tmp_path):
    weights = []
    for shifts in (True, False):
        trainer = trainer_with_shifts(tmp_path, eval_shifts=shifts, eval_strategy="epoch")
        trainer.train()
        weights.append(weights_of(trainer))
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


@pytest.mark.slow
def test_it_chooses_the_best_checkpoint(tmp_path):
    trainer = trainer_with_shifts(
        tmp_path, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2, num_train_epochs=4,
        load_best_model_at_end=True, metric_for_best_model="auroc_global_shifted",
    )  # fmt: skip
    trainer.train()
    logged = {entry["step"]: entry[SHIFTED] for entry in trainer.state.log_history if SHIFTED in entry}
    assert len(set(logged.values())) > 1
    assert trainer.state.best_global_step == max(logged, key=logged.get)
    assert trainer.state.best_metric == max(logged.values())


def test_predictions_are_not_perturbed(tmp_path):
    metrics = trainer_with_shifts(tmp_path).predict(ROWS).metrics
    assert "test_auroc_global" in metrics
    assert not [name for name in metrics if "shifted" in name]


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="metric_for_best_model auroc_global_shifted needs eval_shifts"):
        MLCAKTrainingArguments(str(tmp_path), metric_for_best_model="auroc_global_shifted")
    with pytest.raises(DistillationError, match="eval_shifts needs an MLCAKCollator"):
        make_trainer(tmp_path, teacher=None, collator=lambda rows: rows, eval_shifts=True)
