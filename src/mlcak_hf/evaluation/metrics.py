"""Ranking metrics of both tasks, as an offline `evaluate.Metric` and as `compute_metrics` for the Trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from transformers.utils import logging

from ..errors import MLCAKError
from ..probabilities import SINGLE_LABEL, probabilities
from .scores import FloatArray, LabelArray, TaskScores, global_scores, local_scores

logger = logging.get_logger(__name__)

SPECIFICITY = 0.9
METRICS = ("auroc", "average_precision", "sensitivity_at_90_specificity")


def auroc(scores: FloatArray, labels: LabelArray) -> float | None:
    """Compute the area under the ROC curve, ties counted half; `None` if there is one class only."""
    return float(roc_auc_score(labels, scores)) if _has_both(labels) else None


def average_precision(scores: FloatArray, labels: LabelArray) -> float | None:
    """Compute the average precision, without interpolation; `None` if there is one class only."""
    return float(average_precision_score(labels, scores)) if _has_both(labels) else None


def sensitivity_at_specificity(
    scores: FloatArray, labels: LabelArray, specificity: float = SPECIFICITY
) -> float | None:
    """Compute the largest sensitivity that any threshold reaches with at least this specificity.

    Args:
        scores (`np.ndarray` of shape `(n,)`):
            Scores. An image is positive if its score reaches the threshold.
        labels (`np.ndarray` of shape `(n,)`):
            0 or 1.
        specificity (`float`, *optional*, defaults to 0.9):
            In [0, 1].

    Returns:
        `float` in [0, 1], or `None` if there is one class only.
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
    """Compute every metric of every label, without missing labels: `{"auroc": {name: value or None}, ...}`."""
    columns = [task.column(index) for index in range(len(task.names))]
    return {
        metric: {name: function(*column) for name, column in zip(task.names, columns, strict=True)}
        for metric, function in _PER_LABEL.items()
    }


def macro(values: dict[str, float | None]) -> float | None:
    """Average over the labels that have a value; `None` if there are none."""
    defined = [value for value in values.values() if value is not None]
    return float(np.mean(defined)) if defined else None


def micro(task: TaskScores) -> dict[str, float | None]:
    """Compute every metric over the valid entries of all labels together, labels with one class included."""
    valid = task.labels >= 0
    scores, labels = task.scores[valid], task.labels[valid]
    return {metric: function(scores, labels) for metric, function in _PER_LABEL.items()}


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
        `average_precision` and `sensitivity_at_90_specificity`. An undefined value is `None`, and its label is listed
        in `single_class_labels` or, if it is missing everywhere, in `unannotated_labels`; global labels are listed as
        `global/<label>`.
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
        unknown = sorted(set(kwargs) - set(self._feature_names()))
        absent = sorted(set(self._feature_names()) - {"predictions", "references"} - set(kwargs))
        if unknown or absent:
            raise MLCAKError(
                f"The inputs must be {', '.join(self._feature_names())}; unknown: {', '.join(unknown) or 'none'}, "
                f"missing: {', '.join(absent) or 'none'}. `finding_names` turns the local task on."
            )
        task = global_scores(predictions, references, self.global_names, self.problem_type)
        batch = {"predictions": task.scores.tolist(), "references": task.labels.tolist()}
        if self.finding_names:
            local = local_scores(kwargs["local_predictions"], kwargs["local_references"], self.finding_names)
            if len(local) != len(task):
                raise MLCAKError(
                    f"Both tasks must have equally many images; got {len(task)} global, {len(local)} local."
                )
            batch |= {"local_predictions": local.scores.tolist(), "local_references": local.labels.tolist()}
        super().add_batch(**batch)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add one image, with the arguments of `add_batch` without their first axis."""
        batch = {name: np.asarray(value)[None] for name, value in kwargs.items()}
        self.add_batch(predictions=np.asarray(prediction)[None], references=np.asarray(reference)[None], **batch)

    def _compute(
        self, predictions: Any, references: Any, local_predictions: Any = None, local_references: Any = None
    ) -> dict[str, Any]:
        columns = np.asarray(predictions, dtype=np.float64)
        names = self.global_names or (("Abnormal",) if columns.shape[1] == 1 else None)
        if names is None:
            names = tuple(str(index) for index in range(columns.shape[1]))
        # Batches are stored as columns: a binary task keeps the name of its second class only.
        global_task = TaskScores(columns, np.asarray(references).astype(np.int8), tuple(names[-columns.shape[1] :]))
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


def _has_both(labels: LabelArray) -> bool:
    return bool(len(labels)) and bool((labels == 0).any()) and bool((labels == 1).any())
