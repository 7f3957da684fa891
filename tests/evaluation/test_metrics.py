"""Metrics against slow, obvious references; masks, single classes, precision, distribution, and the Trainer's view."""

import math
import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import FINDINGS as MODEL_FINDINGS
from tiny_models import images, tiny_model
from transformers import EvalPrediction, Trainer, TrainingArguments

from mlcak_hf.errors import LabelError, MLCAKError
from mlcak_hf.evaluation.metrics import (
    MLCAKMetric,
    make_compute_metrics,
    sensitivity_at_specificity,
    task_metrics,
)
from mlcak_hf.evaluation.scores import global_scores, hard_labels, local_scores
from mlcak_hf.probabilities import probabilities

FINDINGS = ("Cardiomegaly", "Nodule/Mass", "Pneumothorax")


def slow_auroc(scores, labels):
    """Share of (positive, negative) pairs in the right order, ties half."""
    wins = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p in scores[labels == 1]
        for n in scores[labels == 0]
    ]  # fmt: skip
    return sum(wins) / len(wins)


def slow_average_precision(scores, labels):
    """Sum over distinct thresholds of (recall step) x precision."""
    total, previous = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        flagged = scores >= threshold
        recall = (labels[flagged] == 1).sum() / (labels == 1).sum()
        total += (recall - previous) * (labels[flagged] == 1).mean()
        previous = recall
    return total


def slow_sensitivity(scores, labels, specificity=0.9):
    best = 0.0
    for threshold in [*sorted(set(scores)), math.inf]:
        if (scores[labels == 0] < threshold).mean() >= specificity:
            best = max(best, (scores[labels == 1] >= threshold).mean())
    return best


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 2, size=(80, 3))
    scores = np.round(probabilities(rng.normal(size=(80, 3)) + labels), 2)  # rounding makes ties
    abnormal = rng.integers(0, 2, 80)
    abnormal[:5] = -1
    return np.round(probabilities(rng.normal(size=80) + abnormal), 2), abnormal, scores, labels


def test_metrics_equal_slow_references_and_leave_missing_labels_out(sample):
    scores, abnormal, local, local_labels = sample
    result = task_metrics(global_scores(scores, abnormal), local_scores(local, local_labels, FINDINGS))

    known = abnormal >= 0
    assert result["auroc_global"] == pytest.approx(slow_auroc(scores[known], abnormal[known]), abs=1e-12)
    per_finding = []
    for index, name in enumerate(FINDINGS):
        known = local_labels[:, index] >= 0
        column, truth = local[known, index], local_labels[known, index]
        per_finding.append(slow_auroc(column, truth))
        assert result[f"auroc/{name}"] == pytest.approx(per_finding[-1], abs=1e-12)
        assert result[f"average_precision/{name}"] == pytest.approx(slow_average_precision(column, truth), abs=1e-12)
        assert result[f"sensitivity_at_90_specificity/{name}"] == pytest.approx(slow_sensitivity(column, truth))
    assert result["auroc_local_macro"] == pytest.approx(np.mean(per_finding), abs=1e-12)
    pooled = local_labels >= 0
    assert result["auroc_local_micro"] == pytest.approx(slow_auroc(local[pooled], local_labels[pooled]), abs=1e-12)
    assert result["single_class_labels"] == []


def test_missing_labels_do_not_change_a_metric(sample):
    scores, abnormal, local, local_labels = sample
    before = task_metrics(global_scores(scores, abnormal), local_scores(local, local_labels, FINDINGS))
    scores, local = scores.copy(), local.copy()
    scores[abnormal < 0] = 0.99
    local[local_labels < 0] = 0.99
    assert task_metrics(global_scores(scores, abnormal), local_scores(local, local_labels, FINDINGS)) == before


@pytest.mark.parametrize("single", [0, 1])
def test_a_label_with_one_class_is_named_not_counted(sample, single):
    scores, abnormal, local, local_labels = sample
    local_labels[:, 1] = np.where(local_labels[:, 1] >= 0, single, -1)
    local_labels[:, 2] = -1
    result = task_metrics(global_scores(scores, abnormal), local_scores(local, local_labels, FINDINGS))
    assert result["auroc/Nodule/Mass"] is None
    assert result["auroc_local_macro"] == result["auroc/Cardiomegaly"]
    assert result["single_class_labels"] == ["Nodule/Mass"]
    assert result["unannotated_labels"] == ["Pneumothorax"]


def test_six_global_labels_are_averaged_over_those_defined():
    rng = np.random.default_rng(1)
    names = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding")
    labels = rng.integers(0, 2, size=(60, 6))
    labels[:, 3] = 0
    scores = probabilities(rng.normal(size=(60, 6)))
    result = task_metrics(global_scores(scores, labels, names, "multi_label_classification"))
    defined = [slow_auroc(scores[:, i], labels[:, i]) for i in (0, 1, 2, 4, 5)]
    assert result["auroc_global"] == pytest.approx(np.mean(defined), abs=1e-12)
    assert result["auroc_global/COPD"] == pytest.approx(defined[0], abs=1e-12)
    assert result["single_class_labels"] == ["global/Tuberculosis"]


def test_three_classes_are_one_against_the_rest():
    labels = np.array([0, 1, 2, 0, 1, 2, -1])
    scores = np.eye(3)[[0, 1, 2, 0, 1, 2, 0]] * 0.8 + 0.1
    task = global_scores(scores, labels, ("a", "b", "c"))
    assert task.labels[-1].tolist() == [-1, -1, -1]
    assert task_metrics(task)["auroc_global"] == 1.0


def test_soft_labels_are_present_above_one_half():
    assert hard_labels([1.0, 2 / 3, 0.5, 1 / 3, 0.0, -1.0, -100]).tolist() == [1, 1, 0, 0, 0, -1, -1]
    soft = [[0.3, 0.7], [0.5, 0.5], [1.0, 0.0], [-1.0, -1.0]]
    assert global_scores(np.full((4, 2), 0.5), soft).labels[:, 0].tolist() == [1, 0, 0, -1]
    with pytest.raises(LabelError, match=r"got 2"):
        hard_labels([0, 2])
    with pytest.raises(LabelError, match="NaN"):
        hard_labels([np.nan])


def test_sensitivity_keeps_the_step_that_lies_exactly_on_the_specificity():
    scores = np.concatenate([np.linspace(0, 0.9, 10), [0.85, 0.95]])
    labels = np.array([0] * 10 + [1, 1])
    assert sensitivity_at_specificity(labels, scores) == 1.0  # one of ten negatives above: specificity exactly 0.9


def test_sensitivity_keeps_steps_on_a_straight_part_of_the_curve():
    # One of each class at every score: the curve is the diagonal, and 0.1 is its second step.
    scores, labels = np.repeat(np.arange(20.0), 2), np.tile([0, 1], 20)
    assert sensitivity_at_specificity(labels, scores) == pytest.approx(0.1)


def test_probabilities_neither_overflow_nor_lose_order():
    extreme = probabilities([[-800.0, 0.0, 800.0]])
    assert extreme.tolist() == [[0.0, 0.5, 1.0]]
    assert probabilities([[1000.0, 1001.0]], "single_label_classification")[0, 1] == pytest.approx(1 / (1 + np.exp(-1)))


def test_metric_keeps_float64_scores_apart(tmp_path):
    # Two scores that float32 cannot tell apart: in the right order the AUROC is 1, as a tie it would be 0.5.
    metric = MLCAKMetric(cache_dir=str(tmp_path))
    result = metric.compute(predictions=np.array([0.3, 0.3 + 1e-12]), references=np.array([0, 1]))
    assert result["auroc_global"] == 1.0


def test_without_names_a_binary_task_is_abnormal_and_other_classes_are_numbered():
    binary = MLCAKMetric(keep_in_memory=True).compute(predictions=[0.2, 0.7], references=[1, 1])
    assert binary["single_class_labels"] == ["global/Abnormal"]
    three = MLCAKMetric(keep_in_memory=True).compute(predictions=np.eye(3), references=[0, 1, 1])
    assert three["auroc_global/0"] == 1.0
    assert three["unannotated_labels"] == []
    assert three["single_class_labels"] == ["global/2"]


def test_metric_in_batches_equals_one_call(sample, tmp_path):
    scores, abnormal, local, local_labels = sample
    two_columns = np.stack([1 - scores, scores], axis=1)
    metric = MLCAKMetric(FINDINGS, cache_dir=str(tmp_path))
    for rows in (slice(0, 50), slice(50, 79)):
        metric.add_batch(
            predictions=two_columns[rows],
            references=abnormal[rows],
            local_predictions=local[rows],
            local_references=local_labels[rows],
        )
    metric.add(
        prediction=two_columns[79],
        reference=abnormal[79],
        local_predictions=local[79],
        local_references=local_labels[79],
    )
    expected = task_metrics(global_scores(scores, abnormal), local_scores(local, local_labels, FINDINGS))
    assert metric.compute() == expected


def test_metric_names_inputs_that_are_missing_or_differ_in_length(tmp_path):
    metric = MLCAKMetric(FINDINGS, cache_dir=str(tmp_path))
    with pytest.raises(MLCAKError, match=r"must be \['local_predictions', 'local_references'\]; got \[\]"):
        metric.add_batch(predictions=[0.1], references=[0])
    with pytest.raises(MLCAKError, match="1 global, 2 local"):
        metric.add_batch(
            predictions=[0.1], references=[0], local_predictions=np.zeros((2, 3)), local_references=np.zeros((2, 3))
        )


def _process(rank, cache_dir, shards, queue):
    scores, abnormal, local, local_labels = shards[rank]
    metric = MLCAKMetric(FINDINGS, num_process=2, process_id=rank, experiment_id="two", cache_dir=cache_dir)
    metric.add_batch(predictions=scores, references=abnormal, local_predictions=local, local_references=local_labels)
    queue.put((rank, metric.compute()))


@pytest.mark.slow
def test_two_processes_with_uneven_shards_equal_one(sample, tmp_path):
    shards = [[array[:53] for array in sample], [array[53:] for array in sample]]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_process, args=(rank, str(tmp_path), shards, queue)) for rank in (0, 1)]
    for process in processes:
        process.start()
    results = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    scores, abnormal, local, local_labels = sample
    assert results[1] is None
    assert results[0] == task_metrics(global_scores(scores, abnormal), local_scores(local, local_labels, FINDINGS))


@pytest.fixture
def config():
    return SimpleNamespace(
        problem_type="single_label_classification",
        id2label={0: "Normal", 1: "Abnormal"},
        global_labels=["Normal", "Abnormal"],
        local_labels=list(FINDINGS),
    )


def test_compute_metrics_gives_flat_finite_floats(sample, config):
    scores, abnormal, local, local_labels = sample
    logits = np.stack([np.zeros(80), np.log(scores / (1 - scores))], axis=1)
    local_logits = np.log(local / (1 - local))
    result = make_compute_metrics(config)(EvalPrediction((logits, local_logits), (abnormal, local_labels)))
    expected = task_metrics(global_scores(scores, abnormal), local_scores(local, local_labels, FINDINGS))
    assert {type(value) for value in result.values()} == {float}
    for name in ("auroc_global", "auroc_local_macro", "auroc_local_micro", "average_precision_global",
                 "sensitivity_at_90_specificity_global", "auroc/Nodule/Mass"):  # fmt: skip
        assert result[name] == pytest.approx(expected[name], abs=1e-9), name


def test_compute_metrics_without_a_local_head(sample, config):
    scores, abnormal, *_ = sample
    config.local_labels = []
    logits = np.stack([np.zeros(80), scores], axis=1).astype(np.float32)
    soft = np.where(abnormal[:, None] < 0, -1.0, np.stack([1 - abnormal, abnormal], axis=1))
    result = make_compute_metrics(config)(EvalPrediction(logits, soft))
    assert set(result) == {"auroc_global", "average_precision_global", "sensitivity_at_90_specificity_global"}


def test_compute_metrics_without_labels_of_the_findings(sample, config):
    scores, abnormal, local, _ = sample
    logits = np.stack([np.zeros(80), scores], axis=1)
    result = make_compute_metrics(config)(EvalPrediction((logits, local), abnormal))
    assert set(result) == {"auroc_global", "average_precision_global", "sensitivity_at_90_specificity_global"}


def test_compute_metrics_take_the_sigmoid_of_several_labels_and_the_softmax_by_default(config):
    logits, labels = np.array([[3.0, 2.0], [2.0, 0.0], [-2.0, -1.0]]), np.array([[1, 1], [0, 0], [0, 1]])
    config.local_labels, config.problem_type = [], "multi_label_classification"
    several = make_compute_metrics(config)(EvalPrediction(logits, labels))
    assert several["auroc_global/Normal"] == slow_auroc(logits[:, 0], labels[:, 0])
    config.problem_type = None
    single = make_compute_metrics(config)(EvalPrediction(logits, labels[:, 1]))
    assert single["auroc_global"] == slow_auroc(logits[:, 1] - logits[:, 0], labels[:, 1])


def test_compute_metrics_take_tuples_of_one(sample, config):
    scores, abnormal, *_ = sample
    logits = np.stack([np.zeros(80), scores], axis=1)
    make = make_compute_metrics(config)
    assert make(EvalPrediction((logits,), (abnormal,))) == make(EvalPrediction(logits, abnormal))


def test_compute_metrics_name_the_labels_that_are_left_out(sample, config, caplog):
    scores, abnormal, local, local_labels = sample
    config.local_labels, logits = ["Seldom", "Nodule/Mass", "Never annotated"], np.stack([np.zeros(80), scores], axis=1)
    make_compute_metrics(config)(EvalPrediction((logits, local), (abnormal, local_labels)))
    assert "No curve is defined" not in caplog.text
    local_labels[:, 0], local_labels[:, 2] = 0, -1
    make_compute_metrics(config)(EvalPrediction((logits, local), (abnormal, local_labels)))
    assert "No curve is defined for Seldom, Never annotated: the 80 evaluated images" in caplog.text


def test_compute_metrics_write_no_files(sample, config, monkeypatch, tmp_path):
    """Several processes of a Trainer would wait for each other's files."""
    scores, abnormal, local, local_labels = sample
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))
    logits = np.stack([np.zeros(80), scores], axis=1)
    make_compute_metrics(config)(EvalPrediction((logits, local), (abnormal, local_labels)))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_compute_metrics_never_returns_nan(sample, config):
    _, _, local, local_labels = sample
    local_labels[:, 0] = 1
    logits = np.zeros((80, 2))
    result = make_compute_metrics(config)(EvalPrediction((logits, local), (np.ones(80), local_labels)))
    assert "auroc_global" not in result
    assert "auroc/Cardiomegaly" not in result
    assert all(math.isfinite(value) for value in result.values())
    logits[3] = np.nan
    with pytest.raises(MLCAKError, match="diverged"):
        make_compute_metrics(config)(EvalPrediction((logits, local), (np.ones(80), local_labels)))


@pytest.fixture
def trainer(tmp_path):
    """The Trainer itself over a tiny model; Pneumothorax is never present."""
    count = 12
    rng = np.random.default_rng(0)
    findings = rng.integers(0, 2, (count, 3)).astype(np.float32)
    findings[:, 2] = 0
    pixels = images(count)
    rows = [{"pixel_values": pixels[i], "labels": i % 2, "local_targets": findings[i]} for i in range(count)]
    model = tiny_model()
    args = TrainingArguments(
        tmp_path, label_names=["labels", "local_targets"], remove_unused_columns=False, report_to="none", max_steps=1,
        use_cpu=True, per_device_eval_batch_size=5, eval_strategy="steps", eval_steps=1, save_strategy="steps",
        save_steps=1, load_best_model_at_end=True, metric_for_best_model="auroc_global", disable_tqdm=True,
    )  # fmt: skip
    compute_metrics = make_compute_metrics(model.config)
    return Trainer(model, args, train_dataset=rows, eval_dataset=rows, compute_metrics=compute_metrics)


def test_the_trainer_gets_metrics_of_both_tasks(trainer):
    metrics = trainer.evaluate()
    with torch.no_grad():
        output = trainer.model.eval()(torch.stack([row["pixel_values"] for row in trainer.eval_dataset]))
    scores = output.logits.softmax(-1)[:, 1].double().numpy()
    labels = np.array([row["labels"] for row in trainer.eval_dataset])
    assert metrics["eval_auroc_global"] == pytest.approx(slow_auroc(scores, labels))
    local = np.stack([row["local_targets"] for row in trainer.eval_dataset])
    first = slow_auroc(output.local_logits[:, 0].numpy(), local[:, 0])
    assert metrics[f"eval_auroc/{MODEL_FINDINGS[0]}"] == pytest.approx(first)
    assert f"eval_auroc/{MODEL_FINDINGS[2]}" not in metrics
    assert "eval_auroc_local_macro" in metrics


def test_the_trainer_stops_where_its_best_metric_is_not_defined(trainer):
    for row in trainer.eval_dataset:
        row["labels"] = 1
    with pytest.raises(KeyError, match="eval_auroc_global"):
        trainer.train()
