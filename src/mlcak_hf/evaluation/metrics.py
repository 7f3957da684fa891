"""Ranking metrics of both tasks, as an offline `evaluate.Metric` and as `compute_metrics` for the Trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from transformers.utils import logging

from ..errors import MLCAKError
from .scores import SINGLE_LABEL, FloatArray, LabelArray, TaskScores, global_scores, local_scores, probabilities

logger = logging.get_logger(__name__)

SPECIFICITY = 0.9
METRICS = ("auroc", "average_precision", "sensitivity_at_90_specificity")


def auroc(scores: FloatArray, labels: LabelArray) -> float | None:
    """Area under the ROC curve, ties counted half; `None` where only one class occurs."""
    return float(roc_auc_score(labels, scores)) if _has_both(labels) else None


def average_precision(scores: FloatArray, labels: LabelArray) -> float | None:
    """Average precision (no interpolation); `None` where only one class occurs."""
    return float(average_precision_score(labels, scores)) if _has_both(labels) else None


def sensitivity_at_specificity(
    scores: FloatArray, labels: LabelArray, specificity: float = SPECIFICITY
) -> float | None:
    """Largest sensitivity that any threshold reaches with at least this specificity.

    Args:
        scores (`np.ndarray` of shape `(n,)`): Scores; an image is positive where its score reaches the threshold.
        labels (`np.ndarray` of shape `(n,)`): 0 or 1.
        specificity (`float`, defaults to 0.9): In [0, 1].

    Returns:
        `float` in [0, 1], or `None` where only one class occurs.
    """
    if not _has_both(labels):
        return None
    false_positive_rate, sensitivity, _ = roc_curve(labels, scores, drop_intermediate=False)
    # A rate of exactly 0.1 may come out as 0.1 + 1e-17, and must not cost a step of the curve.
    return float(sensitivity[false_positive_rate <= 1 - specificity + 1e-9].max())


_PER_LABEL: dict[str, Callable[[FloatArray, LabelArray], float | None]] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "sensitivity_at_90_specificity": sensitivity_at_specificity,
}


def label_metrics(task: TaskScores) -> dict[str, dict[str, float | None]]:
    """Every metric of every label: `{"auroc": {name: value or None}, ...}`; missing labels are left out."""
    columns = [task.column(index) for index in range(len(task.names))]
    return {
        metric: {name: function(*column) for name, column in zip(task.names, columns, strict=True)}
        for metric, function in _PER_LABEL.items()
    }


def macro(values: dict[str, float | None]) -> float | None:
    """Mean over the labels that have a value; `None` if none has."""
    defined = [value for value in values.values() if value is not None]
    return float(np.mean(defined)) if defined else None


def micro(task: TaskScores) -> dict[str, float | None]:
    """Every metric over all valid entries of all labels in one pool (labels with one class add to the pool too)."""
    valid = task.labels >= 0
    scores, labels = task.scores[valid], task.labels[valid]
    return {metric: function(scores, labels) for metric, function in _PER_LABEL.items()}


def task_metrics(global_task: TaskScores, local_task: TaskScores | None = None) -> dict[str, Any]:
    """Metrics of both tasks under flat names.

    Returns:
        `dict` with `auroc_global` (mean over global labels where there are several, then also `auroc_global/<label>`),
        `auroc_local_macro`, `auroc_local_micro` and `auroc/<finding>`; the same for `average_precision` and
        `sensitivity_at_90_specificity`. A value that is not defined is `None`, and its label stands in
        `single_class_labels` (only one class occurs) or `unannotated_labels` (missing everywhere); global labels
        stand there as `global/<label>`.
    """
    result: dict[str, Any] = {}
    per_global = label_metrics(global_task)
    for metric in METRICS:
        result[f"{metric}_global"] = macro(per_global[metric])
        if len(global_task.names) > 1:
            result |= {f"{metric}_global/{name}": value for name, value in per_global[metric].items()}
    if local_task is not None:
        per_local, pooled = label_metrics(local_task), micro(local_task)
        for metric in METRICS:
            result[f"{metric}_local_macro"] = macro(per_local[metric])
            result[f"{metric}_local_micro"] = pooled[metric]
            result |= {f"{metric}/{name}": value for name, value in per_local[metric].items()}
    local_single = local_task.single_class_names() if local_task is not None else []
    local_unannotated = local_task.unannotated_names() if local_task is not None else []
    result["single_class_labels"] = [f"global/{name}" for name in global_task.single_class_names()] + local_single
    result["unannotated_labels"] = [f"global/{name}" for name in global_task.unannotated_names()] + local_unannotated
    return result


class MLCAKMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """AUROC, average precision and sensitivity at 90 % specificity for the global and the local task, offline.

    An ordinary [`evaluate.Metric`]: `add`, `add_batch`, `compute`, and distributed use through `num_process`,
    `process_id`, `experiment_id` and a shared `cache_dir`. Inputs are probabilities; they are kept in float64, because
    evaluate's float32 would round scores into ties.

    Args:
        finding_names (`Sequence[str]`, defaults to none):
            Local findings; with them `local_predictions` and `local_references` must be fed as well.
        global_names (`Sequence[str]`, *optional*):
            Names of the global classes, in the order of the model.
        problem_type (`str`):
            `"single_label_classification"` or `"multi_label_classification"`, of the global task.
        **kwargs:
            Passed to [`evaluate.Metric`].

    Returns (from `compute`):
        What [`task_metrics`] returns, on process 0; `None` on the others.

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
        # `evaluate` calls `_info` from its constructor, and `_info` needs these.
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
            description="Ranking metrics of the global and the local task of MLCAK, missing labels (-1) left out.",
            citation="",
            inputs_description="Probabilities and labels of both tasks; see `mlcak_hf.evaluation.MLCAKMetric`.",
            features=datasets.Features(features),
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add a batch.

        Args:
            predictions (array-like of shape `(n,)` or `(n, classes)`): Global probabilities.
            references (array-like of shape `(n,)` or `(n, classes)`): Global labels, -1 where missing.
            local_predictions (array-like of shape `(n, findings)`): Local probabilities.
            local_references (array-like of shape `(n, findings)`): Local labels, -1 where missing.
        """
        unknown = sorted(set(kwargs) - set(self._feature_names()))
        absent = sorted(set(self._feature_names()) - {"predictions", "references"} - set(kwargs))
        if unknown or absent:
            raise MLCAKError(
                f"this metric is fed {', '.join(self._feature_names())}; {', '.join(unknown) or 'nothing'} came "
                f"besides, {', '.join(absent) or 'nothing'} is missing (`finding_names` decides about the local task)"
            )
        task = global_scores(predictions, references, self.global_names, self.problem_type)
        batch = {"predictions": task.scores.tolist(), "references": task.labels.tolist()}
        if self.finding_names:
            local = local_scores(kwargs["local_predictions"], kwargs["local_references"], self.finding_names)
            if len(local) != len(task):
                raise MLCAKError(f"both tasks must have the same images, got {len(task)} global and {len(local)} local")
            batch |= {"local_predictions": local.scores.tolist(), "local_references": local.labels.tolist()}
        super().add_batch(**batch)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one image: as `add_batch`, without the first axis."""
        batch = {name: np.asarray(value)[None] for name, value in kwargs.items()}
        self.add_batch(predictions=np.asarray(prediction)[None], references=np.asarray(reference)[None], **batch)

    def _compute(
        self, predictions: Any, references: Any, local_predictions: Any = None, local_references: Any = None
    ) -> dict[str, Any]:
        columns = np.asarray(predictions, dtype=np.float64)
        names = self.global_names or (("Abnormal",) if columns.shape[1] == 1 else None)
        if names is None:
            names = tuple(str(index) for index in range(columns.shape[1]))
        # The batches went in as columns already: a binary task keeps the name of its second class only.
        global_task = TaskScores(columns, np.asarray(references).astype(np.int8), tuple(names[-columns.shape[1] :]))
        local_task = None
        if self.finding_names:
            local_task = local_scores(local_predictions, local_references, self.finding_names)
        return task_metrics(global_task, local_task)


def make_compute_metrics(config: Any) -> Callable[[Any], dict[str, float]]:
    """Make the `compute_metrics` of a Trainer for a model with this configuration.

    It expects predictions `(logits, local_logits)`, or `logits` alone where there is no local head, and label ids
    `(labels, local_labels)`, or `labels` alone. Soft labels count as present above one half ([`hard_labels`]).

    A metric that is not defined (its label has one class only in the evaluated images) is left out of the result and
    named in a warning, instead of being NaN: `metric_for_best_model` then stops with the Trainer's own message rather
    than comparing with NaN, which is always false and would keep the first checkpoint silently.

    Args:
        config ([`MLCAKConfig`]): Gives `problem_type`, `id2label` and `local_labels`.

    Returns:
        A function of a `transformers.EvalPrediction` to a flat `dict[str, float]`: `auroc_global`,
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
        global_task = global_scores(probabilities(logits, problem_type), labels, names, problem_type)
        local_task = None
        if findings and local_logits is not None and local_labels is not None:
            local_task = local_scores(probabilities(local_logits), local_labels, findings)
        metrics = task_metrics(global_task, local_task)
        undefined = metrics.pop("single_class_labels") + metrics.pop("unannotated_labels")
        if undefined:
            logger.warning_once(
                f"No curve is defined for {', '.join(undefined)}: the {len(global_task)} evaluated images hold only "
                "one class of each (or no annotation). Their metrics are left out, and out of the means."
            )
        wanted = {name: value for name, value in metrics.items() if "/" not in name or name.startswith("auroc")}
        return {name: float(value) for name, value in wanted.items() if value is not None}

    return compute_metrics


def _pair(values: Any) -> tuple[ArrayLike, ArrayLike | None]:
    """First and second of a tuple; the Trainer unwraps a tuple of one."""
    if isinstance(values, tuple | list):
        return values[0], values[1] if len(values) > 1 else None
    return cast(ArrayLike, values), None


def _has_both(labels: LabelArray) -> bool:
    return bool(len(labels)) and bool((labels == 0).any()) and bool((labels == 1).any())
