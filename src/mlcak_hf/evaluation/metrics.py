"""Ranking metrics of both tasks, as an offline `evaluate.Metric` and as `compute_metrics` for the Trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from transformers.utils import logging

from ..errors import MLCAKError
from ..probabilities import SINGLE_LABEL, probabilities
from .scores import FloatArray, LabelArray, TaskScores, global_scores, local_scores, undefined_labels

logger = logging.get_logger(__name__)

SPECIFICITY = 0.9


def sensitivity_at_specificity(labels: LabelArray, scores: FloatArray) -> float:
    """Compute the largest sensitivity that any threshold reaches with a specificity of at least 90 %.

    Args:
        labels (`np.ndarray` of shape `(n,)`):
            0 or 1, both present.
        scores (`np.ndarray` of shape `(n,)`):
            Scores. An image is positive if its score reaches the threshold.

    Returns:
        `float` in [0, 1].
    """
    false_positive_rate, sensitivity, _ = roc_curve(labels, scores, drop_intermediate=False)
    # A rate of exactly 0.1 may come out as 0.1 + 1e-17, and must not cost a step of the curve.
    return float(sensitivity[false_positive_rate <= 1 - SPECIFICITY + 1e-9].max())


#: Ranking metrics: functions of labels and scores, ties counted half. They need both classes.
METRICS: dict[str, Callable[[LabelArray, FloatArray], float]] = {
    "auroc": roc_auc_score,
    "average_precision": average_precision_score,
    "sensitivity_at_90_specificity": sensitivity_at_specificity,
}


def fold_weight(metric: str, positives: Any, negatives: Any) -> Any:
    """Weight of a fold in a mean: for AUROC, its pairs of a positive and a negative image; otherwise its positives.

    So the mean keeps its meaning over all folds: the share of pairs within a fold that are in the right order, or the
    share of positives that are found, each by the model of its fold.
    """
    return positives * negatives if metric == "auroc" else positives


def _metric(name: str, scores: FloatArray, labels: LabelArray, folds: NDArray[np.intp] | None = None) -> float | None:
    """Compute a metric, or return `None` if no fold has both classes. Labels are 0 or 1."""
    folds = np.zeros(len(labels), dtype=np.intp) if folds is None else folds
    values, weights = [], []
    for fold in np.unique(folds):
        own = labels[folds == fold]
        if len(np.unique(own)) > 1:
            values.append(float(METRICS[name](own, scores[folds == fold])))
            weights.append(fold_weight(name, (own == 1).sum(), (own == 0).sum()))
    return float(np.average(values, weights=weights)) if values else None


def task_metrics(global_task: TaskScores, local_task: TaskScores | None = None) -> dict[str, Any]:
    """Compute the metrics of both tasks under flat names.

    Args:
        global_task ([`TaskScores`]):
            The global task.
        local_task ([`TaskScores`], *optional*):
            The local findings.

    Returns:
        `dict[str, Any]`: `auroc_global` (the mean if there are several global labels, then also
        `auroc_global/<label>`), `auroc_local_macro`, `auroc_local_micro` and `auroc/<finding>`; the same for
        `average_precision` and `sensitivity_at_90_specificity`. Means are over the labels that have both classes; the
        micro metric pools all entries. With folds, each is a mean over the folds ([`fold_weight`]). An undefined value
        is `None`; [`undefined_labels`] lists its label.
    """
    result: dict[str, Any] = {}
    for metric in METRICS:
        result |= _label_metrics(metric, global_task, f"{metric}_global", f"{metric}_global/")
        if len(global_task.names) == 1:
            del result[f"{metric}_global/{global_task.names[0]}"]
    if local_task is not None:
        valid = local_task.labels >= 0
        for metric in METRICS:
            result |= _label_metrics(metric, local_task, f"{metric}_local_macro", f"{metric}/")
            folds = None if local_task.folds is None else np.broadcast_to(local_task.folds[:, None], valid.shape)[valid]
            result[f"{metric}_local_micro"] = _metric(metric, local_task.scores[valid], local_task.labels[valid], folds)
    return result | undefined_labels(global_task, local_task)


def _label_metrics(metric: str, task: TaskScores, mean: str, prefix: str) -> dict[str, float | None]:
    """Compute a metric of every label, and its mean over the labels that have a value."""
    values = {}
    for name, scores, labels in zip(task.names, task.scores.T, task.labels.T, strict=True):
        valid = labels >= 0
        folds = None if task.folds is None else task.folds[valid]
        values[prefix + name] = _metric(metric, scores[valid], labels[valid], folds)
    defined = [value for value in values.values() if value is not None]
    return {mean: float(np.mean(defined)) if defined else None, **values}


class MLCAKMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """AUROC, average precision and sensitivity at 90 % specificity of the global and the local task, offline.

    An ordinary [`evaluate.Metric`] with `add`, `add_batch` and `compute`, also distributed (`num_process`,
    `process_id`, `experiment_id`, a shared `cache_dir`). Scores are kept in float64: float32 would round some
    into ties.

    Args:
        finding_names (`Sequence[str]`, *optional*, defaults to `()`):
            Local findings. If there are any, `local_predictions` and `local_references` must be given as well.
        global_names (`Sequence[str]`, *optional*):
            Names of the global classes, in the order of the model.
        problem_type (`str`, *optional*, defaults to `"single_label_classification"`):
            `"single_label_classification"` or `"multi_label_classification"`, of the global task.
        **kwargs:
            Passed to [`evaluate.Metric`].

    Returns (from `compute`):
        `dict[str, Any]`: as from [`task_metrics`] on process 0; `None` on the others.

    Example:

    ```python
    >>> metric = MLCAKMetric(finding_names=["Cardiomegaly"])
    >>> metric.add_batch(predictions=[0.2, 0.9], references=[0, 1], local_predictions=[[0.1], [0.3]],
    ...                  local_references=[[0], [-1]])
    >>> result = metric.compute()
    >>> result["auroc_global"], result["auroc/Cardiomegaly"], result["single_class_labels"]
    (1.0, None, ['Cardiomegaly'])
    ```
    """

    def __init__(
        self,
        finding_names: Sequence[str] = (),
        global_names: Sequence[str] | None = None,
        problem_type: str = SINGLE_LABEL,
        **kwargs: Any,
    ) -> None:
        # The constructor of `evaluate` calls `_info`, which needs these.
        self.finding_names = tuple(finding_names)
        self.global_names = None if global_names is None else tuple(global_names)
        self.problem_type = problem_type
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        column = datasets.Sequence(datasets.Value("float64"))
        features = {"predictions": column, "references": column}
        if self.finding_names:
            features |= {"local_predictions": column, "local_references": column}
        return evaluate.MetricInfo(
            description="Ranking metrics of the global and the local task of MLCAK, without missing labels (-1).",
            citation="",
            inputs_description="Probabilities and labels of both tasks.",
            features=datasets.Features(features),
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add a batch.

        Args:
            predictions (array-like of shape `(n,)` or `(n, classes)`):
                Global probabilities.
            references (array-like of shape `(n,)` or `(n, classes)`):
                Global labels, -1 if missing.
            **kwargs:
                `local_predictions` and `local_references` of shape `(n, findings)`: the same for the findings.

        Raises:
            [`MLCAKError`]: When an input is unknown or missing, or both tasks have different numbers of images.
        """
        expected = ["local_predictions", "local_references"] if self.finding_names else []
        if sorted(kwargs) != expected:
            raise MLCAKError(
                f"The inputs of the local task must be {expected}; got {sorted(kwargs)}. Name its findings in "
                "`finding_names`."
            )
        task = global_scores(predictions, references, self.global_names, self.problem_type)
        batch = {"predictions": task.scores.tolist(), "references": task.labels.tolist()}
        if self.finding_names:
            local = local_scores(kwargs["local_predictions"], kwargs["local_references"], self.finding_names)
            if len(local) != len(task):
                raise MLCAKError(f"Both tasks must have the same images; got {len(task)} global, {len(local)} local.")
            batch |= {"local_predictions": local.scores.tolist(), "local_references": local.labels.tolist()}
        super().add_batch(**batch)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one image, with the arguments of `add_batch` without their first axis."""
        batch = {name: np.asarray(value)[None] for name, value in kwargs.items()}
        self.add_batch(predictions=np.asarray(prediction)[None], references=np.asarray(reference)[None], **batch)

    def _compute(
        self, predictions: Any, references: Any, local_predictions: Any = None, local_references: Any = None
    ) -> dict[str, Any]:
        # Batches are stored as columns: a binary task keeps the name of its second class only.
        columns = np.asarray(predictions, dtype=np.float64)
        names = self.global_names or (("Abnormal",) if columns.shape[1] == 1 else map(str, range(columns.shape[1])))
        global_task = TaskScores(columns, np.asarray(references, dtype=np.int8), tuple(names)[-columns.shape[1] :])
        local_task = None
        if self.finding_names:
            local_task = local_scores(local_predictions, local_references, self.finding_names)
        return task_metrics(global_task, local_task)


def make_compute_metrics(config: Any) -> Callable[[Any], dict[str, float]]:
    """Make the `compute_metrics` of a Trainer, on top of [`MLCAKMetric`].

    Predictions are `(logits, local_logits)` or `logits` alone, label ids `(labels, local_targets)` or `labels` alone.
    Soft labels count as present above one half ([`hard_labels`]).

    An undefined metric (its label has one class only) is left out and named in a warning. As NaN,
    `metric_for_best_model` would compare with it, always find it worse, and silently keep the first checkpoint.

    Args:
        config ([`MLCAKConfig`]):
            Supplies `problem_type`, `id2label` and `local_labels`.

    Returns:
        `Callable`: From a `transformers.EvalPrediction` to a flat `dict[str, float]` with `auroc_global`,
        `auroc_local_macro`, `auroc_local_micro`, the same for `average_precision` and
        `sensitivity_at_90_specificity`, and `auroc/<finding>`.

    Example:

    ```python
    >>> trainer = MLCAKTrainer(model=student, teacher=teacher, args=args, train_dataset=train, eval_dataset=val,
    ...                        compute_metrics=make_compute_metrics(student.config))
    ```
    """
    problem_type = str(config.problem_type or SINGLE_LABEL)
    names = config.global_labels
    findings = tuple(config.local_labels or ())

    def compute_metrics(prediction: Any) -> dict[str, float]:
        logits, local_logits = _pair(prediction.predictions)
        labels, local_labels = _pair(prediction.label_ids)
        inputs = {"predictions": probabilities(logits, problem_type), "references": labels}
        has_local = bool(findings) and local_logits is not None and local_labels is not None
        if has_local:
            inputs |= {"local_predictions": probabilities(local_logits), "local_references": local_labels}
        # In memory: several processes of a Trainer would otherwise wait for each other's files.
        metric = MLCAKMetric(findings if has_local else (), names, problem_type, keep_in_memory=True)
        metrics = metric.compute(**inputs)
        undefined = metrics.pop("single_class_labels") + metrics.pop("unannotated_labels")
        if undefined:
            logger.warning_once(
                f"No curve is defined for {', '.join(undefined)}: the {len(logits)} evaluated images have one class "
                "only, or no annotation, of each. Their metrics are left out, also of the means."
            )
        wanted = {name: value for name, value in metrics.items() if "/" not in name or name.startswith("auroc")}
        return {name: float(value) for name, value in wanted.items() if value is not None}

    return compute_metrics


def _pair(values: Any) -> tuple[Any, Any]:
    """Split a tuple of one or two; the Trainer unwraps a tuple of one."""
    if isinstance(values, tuple | list):
        return values[0], values[1] if len(values) > 1 else None
    return values, None
