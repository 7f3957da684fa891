"""What the training scripts recorded in training.json, as a model card shows it."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DeploymentError

# With fewer positives than this, what a head has learnt of a finding is chance.
_FEW_POSITIVES = 10
_REMEDY = "name the training.json that examples/distillation/train_teacher.py or distil_student.py wrote."


@dataclass(frozen=True)
class TrainingRecord:
    """How a model came to be.

    Attributes:
        rows: What a card shows, by name, in its order.
        limits: Limits that follow from what the training data did not hold.
        base_model: Hub id of the pretrained backbone that the training started from; None if there was none.
    """

    rows: Mapping[str, Any]
    limits: tuple[str, ...]
    base_model: str | None

    @classmethod
    def from_json(cls, record: Mapping[str, Any] | str | os.PathLike[str]) -> "TrainingRecord":
        """Take the choices, counts and limits from a training script's record.

        Args:
            record: The content of training.json, or its path.

        Raises:
            DeploymentError: If the file is missing or something else.
        """
        read: Any = record if isinstance(record, Mapping) else _read(Path(record))
        try:
            return cls(_rows(read), tuple(_limits(read)), _base_model(read["model"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise DeploymentError(
                f"This is no record of training ({type(error).__name__}: {error}): {_REMEDY}"
            ) from error


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DeploymentError(f"{path} cannot be read as a record of training ({error}): {_REMEDY}") from error


def _rows(record: Mapping[str, Any]) -> dict[str, Any]:
    model, data, arguments, train = record["model"], record["data"], record["arguments"], record["train"]
    rows: dict[str, Any] = {"Dataset": data["dataset"]}
    preparation = data.get("preparation") or {}
    if "aggregation" in preparation:
        rows["Readers' votes"] = preparation["aggregation"]
    rows["Training images"] = f"{train['rows']} ({_counts(train['global'])})"
    rows["Validation images"] = f"{record['validation']['rows']} ({_counts(record['validation']['global'])})"
    rows["Initial weights"] = _initial_weights(model)
    distilled = model.get("distilled", bool(model.get("teacher") or model.get("teacher_cache")))
    if distilled and any(arguments[name] for name in ("alpha", "beta", "gamma")):
        rows["Teacher"] = model.get("teacher") or _teacher_of_cache(model)
        rows["Weights of the losses"] = ", ".join(f"{name} {arguments[name]:g}" for name in ("alpha", "beta", "gamma"))
        rows["Loss on logits"] = arguments["logit_loss"]
        rows["Loss on attention"] = f"{arguments['attention_loss']}, {arguments['attention_aggregation']}"
    rows["Weight of the local loss"] = model.get("local_loss_weight", "")
    rows["Epochs, steps"] = f"{record['epochs']:g}, {record['steps']}"
    accumulated = arguments["gradient_accumulation_steps"]
    rows["Batch"] = f"{arguments['per_device_train_batch_size']} per process" + (
        f", accumulated over {accumulated}" if accumulated > 1 else ""
    )
    rows["Optimizer"] = (
        f"{arguments['optim']}, learning rate {arguments['learning_rate']:g} ({arguments['lr_scheduler_type']}), "
        f"weight decay {arguments['weight_decay']:g}"
    )
    rows["Augmentation"] = (
        ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in record["views"].items())
        if record.get("views")
        else "none"
    )
    rows["Seed"] = arguments["seed"]
    return rows


def _initial_weights(model: Mapping[str, Any]) -> str:
    """In words; an old record does not say whether the model that it names had weights: folders are named as sizes."""
    if model.get("backbone"):
        return f"{model['backbone']}{'' if model.get('backbone_on_hub', True) else ' (a local folder)'}"
    known = {"random": "random (trained from scratch)", "model": f"those of {model['model']}"}
    return known.get(model.get("initial_weights", ""), f"not recorded (started from {model['model']})")


def _teacher_of_cache(model: Mapping[str, Any]) -> str:
    """Who taught from a cache: nobody known by name, but by the fingerprint of the weights."""
    weights = ", ".join(f"{digest[:12]}..." for digest in model.get("teacher_weights") or ())
    who = f"not named (SHA-256 of its weights: {weights})" if weights else "not named"
    cache = model.get("teacher_cache")
    return f"{who}; what it knows was read from {cache}" if cache else who


def _base_model(model: Mapping[str, Any]) -> str | None:
    """The backbone where it is one on the Hub: an old record names the last part of a folder in the same way."""
    backbone = str(model.get("backbone") or "")
    named = re.fullmatch(r"[\w.-]+/[\w.-]+", backbone) is not None and not Path(backbone).exists()
    return backbone if backbone and model.get("backbone_on_hub", named) else None


def _counts(positives: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in positives.items())


def _limits(record: Mapping[str, Any]) -> list[str]:
    local = record["train"].get("local", {})
    unknown = [name for name, (_, known) in local.items() if not known]
    absent = [name for name, (positives, known) in local.items() if known and not positives]
    few = [f"{name} ({positives})" for name, (positives, known) in local.items() if 0 < positives < _FEW_POSITIVES]
    limits = []
    if unknown:
        limits.append(f"Never annotated in training, so the model's outputs mean nothing: {', '.join(unknown)}.")
    if absent:
        limits.append(f"No positive image in training, so they cannot have been learnt: {', '.join(absent)}.")
    if few:
        limits.append(f"Fewer than {_FEW_POSITIVES} positive images in training: {', '.join(few)}.")
    return limits
