"""Checks of a dataset before training: something to learn, and a metric to choose the best checkpoint by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import EvalPrediction

from ..configuration_mlcak import MLCAKConfig
from ..data.sources import RadiographDataset, describe_targets
from ..errors import DistillationError, RecipeError
from .arguments import MLCAKTrainingArguments

#: Makes `compute_metrics` for the config of a model.
MetricsOf = Callable[[MLCAKConfig], Callable[[Any], dict[str, float]]]

_METRICS_OF_TIME = ("runtime", "samples_per_second", "steps_per_second")


def check_labels(dataset: Any) -> None:
    """Check that a dataset has a label, for training without a teacher.

    Args:
        dataset ([`RadiographDataset`]):
            Rows with targets; another dataset is not checked.

    Raises:
        [`DistillationError`]: When no row has a label.
    """
    if not _has_labels(dataset):
        raise DistillationError(
            "There is nothing to learn from: no image of the dataset has a label, and no teacher is used. Name the "
            "columns of labels (--label_column, --findings_column), or a --teacher with alpha (of local findings), "
            "beta or gamma above 0."
        )


def check_targets(
    args: MLCAKTrainingArguments,
    config: MLCAKConfig,
    train: RadiographDataset,
    validation: RadiographDataset,
    metrics_of: MetricsOf | None = None,
    taught: bool = False,
) -> None:
    """Check that there is something to learn, and that the metric that chooses the best checkpoint will be defined.

    Args:
        args ([`MLCAKTrainingArguments`]):
            Arguments of the training.
        config ([`MLCAKConfig`]):
            Config of the model.
        train, validation ([`RadiographDataset`]):
            Rows with targets.
        metrics_of (`Callable`, *optional*):
            Makes the metrics of evaluation from a config; `None` when nothing will be evaluated.
        taught (`bool`, *optional*, defaults to `False`):
            Whether there is a teacher.

    Raises:
        [`DistillationError`]: When no training row has a label and no teacher's loss has a weight.
        [`RecipeError`]: When the metric is not defined on the validation rows.
    """
    if not taught or not (args.beta > 0 or args.gamma > 0 or (args.alpha > 0 and config.local_labels)):
        check_labels(train)
    metric = (args.metric_for_best_model or "").removeprefix("eval_")
    if metrics_of is None or not metric or args.eval_strategy == "no" or metric in _METRICS_OF_TIME:
        return
    labelled = _has_labels(validation)
    if metric == "loss":
        # Without labels every checkpoint has the loss 0, and the first would be taken for the best.
        defined = labelled or not args.load_best_model_at_end
    else:
        # The metrics of a model that knows nothing have the same names as any other model's.
        widths = {"labels": len(config.global_labels), "local_targets": len(config.local_labels)}
        tasks = [name for name in widths if name in validation.targets]
        logits: Any = tuple(np.zeros((len(validation), widths[name]), np.float32) for name in tasks)
        labels: Any = tuple(validation.targets[name] for name in tasks)
        defined = metric in metrics_of(config)(EvalPrediction(predictions=logits, label_ids=labels))
    if not defined:
        raise RecipeError(
            f"metric_for_best_model must be defined on the validation split; got {args.metric_for_best_model} for "
            f"{_counts(validation, config)}. {_ONE_CLASS if labelled else _NO_LABELS}"
        )


_ONE_CLASS = (
    "Use a split with positive and negative images (or another --validation_fraction or --split_seed), or "
    "--metric_for_best_model eval_loss."
)
_NO_LABELS = (
    "Without labels, keep the last checkpoint: --load_best_model_at_end false --metric_for_best_model eval_loss."
)


def _has_labels(dataset: Any) -> bool:
    targets = getattr(dataset, "targets", None)
    return targets is None or any((values >= 0).any() for values in targets.values())


def _counts(dataset: RadiographDataset, config: MLCAKConfig) -> str:
    counts = describe_targets(dataset, config)
    labels = [f"{name} {count}" for name, count in counts["global"].items()]
    labels += [f"{name} {positive} of {known} annotated" for name, (positive, known) in counts.get("local", {}).items()]
    return f"{counts['rows']} images, {', '.join(labels)}"
