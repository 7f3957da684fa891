"""What can be found wrong with a dataset before a training: nothing to learn from, no metric to choose by."""

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
        args: of the training.
        config: of the model.
        train, validation: rows with targets.
        metrics_of: makes the metrics of evaluation; None where nothing will be evaluated.
        taught: whether there is a teacher.

    Raises:
        DistillationError: if no training row has a label and no teacher's loss has a weight.
        RecipeError: if the metric is not defined on the validation rows; names their counts and what to do.
    """
    local = args.alpha > 0 and bool(config.local_labels)
    if not _has_labels(train) and not (taught and (local or args.beta > 0 or args.gamma > 0)):
        raise DistillationError(
            f"There is nothing to learn from: none of the {len(train)} training rows has a label, and no teacher is "
            "asked. Name the columns of labels (--label_column, --findings_column), or a --teacher with alpha (of "
            "local findings), beta or gamma above 0."
        )
    metric = (args.metric_for_best_model or "").removeprefix("eval_")
    if metrics_of is None or not metric or args.eval_strategy == "no":
        return
    if metric == "loss":
        # Without labels every checkpoint has the loss 0, and the first would be taken for the best.
        defined = _has_labels(validation) or not args.load_best_model_at_end
    else:
        defined = metric in _METRICS_OF_TIME or metric in _defined_metrics(config, validation, metrics_of)
    if not defined:
        raise RecipeError(
            f"The best checkpoint cannot be chosen by metric_for_best_model={args.metric_for_best_model}, which the "
            f"validation split does not define: {_counts(validation, config)}. {_other_metric(validation)}"
        )


def _has_labels(dataset: RadiographDataset) -> bool:
    return any((values >= 0).any() for values in dataset.targets.values())


def _defined_metrics(config: MLCAKConfig, dataset: RadiographDataset, metrics_of: MetricsOf) -> dict[str, float]:
    """The metrics that a model which knows nothing has on these rows: the same names as any other model's."""
    widths = {"labels": len(config.global_labels), "local_targets": len(config.local_labels)}
    tasks = [name for name in widths if name in dataset.targets]
    logits: Any = tuple(np.zeros((len(dataset), widths[name]), np.float32) for name in tasks)
    labels: Any = tuple(dataset.targets[name] for name in tasks)
    return metrics_of(config)(EvalPrediction(predictions=logits, label_ids=labels))


def _counts(dataset: RadiographDataset, config: MLCAKConfig) -> str:
    """Images per label, in words."""
    counts = describe_targets(dataset, config)
    words = [f"{name} {count}" for name, count in counts["global"].items()]
    words += [f"{name} {positive} of {known} annotated" for name, (positive, known) in counts.get("local", {}).items()]
    return f"of {counts['rows']} images, {', '.join(words)}"


def _other_metric(validation: RadiographDataset) -> str:
    """What to do where the metric is not defined."""
    if _has_labels(validation):
        return (
            "A curve needs images with and without a label: use a validation split that has both (where it is split "
            "off, another --validation_fraction or --split_seed), or choose by the loss: --metric_for_best_model "
            "eval_loss."
        )
    return (
        "Without labels no checkpoint is better than another: keep the last with --load_best_model_at_end false "
        "--metric_for_best_model eval_loss."
    )
