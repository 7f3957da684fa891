"""The record of a training run, `training.json`: saved beside the weights, shown in the model card."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from ..data.sources import describe_targets
from ..errors import DeploymentError
from ..shipped import resolve_model
from ..weights import weight_files

TRAINING_FILE = "training.json"

_REMEDY = "Pass the training.json that train_teacher.py or distil_student.py wrote."
_ENTRIES = {"model", "data", "views", "arguments", "train", "validation", "epochs", "steps"}
# A slash in a sentence, a list of counts or a URL does not separate folders.
_NOT_IN_PATHS = re.compile(r"[(),;:{}]")
_PATH_PREFIXES = ("/", "./", "../", "~", ".\\", "..\\", "file:/")


@dataclass(frozen=True)
class TrainingRecord:
    """How a model was trained: options, data and log. It never holds a local folder, because it may be published.

    Args:
        content (`Mapping`):
            The content of `training.json`.

    Raises:
        [`DeploymentError`]: When `content` is not a training record.
    """

    content: Mapping[str, Any]

    def __post_init__(self) -> None:
        missing = _ENTRIES - (self.content.keys() if isinstance(self.content, Mapping) else set())
        if missing:
            raise DeploymentError(f"The training record must contain {', '.join(sorted(missing))}. {_REMEDY}")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainingRecord:
        """Read a `training.json`.

        Args:
            path (`str` or `os.PathLike`):
                The file, or the folder that contains it.

        Raises:
            [`DeploymentError`]: When the file cannot be read or is not a training record.
        """
        file = Path(path) / TRAINING_FILE if Path(path).is_dir() else Path(path)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DeploymentError(f"{file} cannot be read as a training record: {error}. {_REMEDY}") from error
        return cls(content)

    @classmethod
    def of_run(
        cls, trainer: Any, model_args: Any, data_args: Any, preparation: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> TrainingRecord:
        """Record a finished training run.

        Args:
            trainer ([`MLCAKTrainer`]):
                The trainer, after `train()`.
            model_args ([`ModelArguments`]), data_args ([`DataArguments`]):
                The options of the script.
            preparation (`Mapping`):
                How the dataset was prepared.
            metrics (`Mapping[str, float]`):
                Metrics of the saved model on the validation split.
        """
        views, config = getattr(trainer.data_collator, "views", None), trainer.model.config
        return cls(
            {
                "script": Path(sys.argv[0]).stem,
                "model": model_entry(trainer, model_args),
                "data": without_folders(asdict(data_args)) | {"preparation": dict(preparation)},
                "views": None if views is None else asdict(views),
                "arguments": arguments_entry(trainer.args),
                "train": describe_targets(trainer.train_dataset, config),
                "validation": describe_targets(trainer.eval_dataset, config) | {"metrics": dict(metrics)},
                "best_metric": trainer.state.best_metric,
                "epochs": trainer.state.epoch,
                "steps": trainer.state.global_step,
                "log": trainer.state.log_history,
            }
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `training.json` into a folder."""
        Path(folder, TRAINING_FILE).write_text(json.dumps(self.content, indent=1), encoding="utf-8")

    @property
    def base_model(self) -> str | None:
        """Hub id of the pretrained backbone that training started from; `None` without one."""
        model = self.content["model"]
        return str(model["backbone"]) if model["backbone_on_hub"] else None

    @property
    def unlearned_findings(self) -> frozenset[str]:
        """Findings without a positive image in the training data."""
        local = self.content["train"].get("local", {})
        return frozenset(name for name, (positives, _) in local.items() if not positives)


def model_entry(trainer: Any, model_args: Any) -> dict[str, Any]:
    """Describe the model, its initial weights and its teachers."""
    folder, cache = Path(resolve_model(model_args.model)), trainer.teacher_cache
    if model_args.backbone:
        initial = "backbone"
    elif folder.resolve() == Path(str(trainer.args.output_dir)).resolve():
        initial = "unknown"  # By now training has written weights there, whether or not there were any before.
    else:
        initial = "model" if not folder.is_dir() or weight_files(folder) else "random"
    chosen: dict[str, Any] = without_folders(asdict(model_args))
    return {
        "distilled": trainer.teachers is not None,
        # A cache does not name its teachers, but their owner can recognize them by the digests of their weights.
        "teacher_weights": None if cache is None else cache.key.get("teacher weights"),
        "initial_weights": initial,
        "backbone_on_hub": bool(model_args.backbone) and not Path(str(model_args.backbone)).exists(),
    } | chosen


def arguments_entry(args: Any) -> dict[str, Any]:
    """Return the training arguments as numbers and text, without folders."""
    return {
        name: value if value is None or isinstance(value, bool | int | float) else str(without_folders(value))
        for name, value in args.to_dict().items()
        if "dir" not in name
    }


def without_folders(value: Any) -> Any:
    """Reduce every local path in a value to its last part. Hub ids (`owner/name`) and other text stay unchanged.

    Args:
        value (`Any`):
            A path, text or number, or nested lists and mappings of them.

    Returns:
        `Any`: The same in plain types: tuples become lists and path objects become text.

    Example:

    ```python
    >>> without_folders(["/home/someone/runs/teacher", "google/vit-base-patch16-224", 0.5])
    ['teacher', 'google/vit-base-patch16-224', 0.5]
    ```
    """
    if isinstance(value, Mapping):
        return {name: without_folders(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(entry) for entry in value]
    if isinstance(value, os.PathLike) or (isinstance(value, str) and _is_path(value)):
        path = os.fspath(value)
        name = PureWindowsPath(path).name  # Windows' rules know both separators.
        return Path(path).resolve().name if name in ("", "..") else name
    return value


def _is_path(text: str) -> bool:
    if text.startswith(_PATH_PREFIXES) or PureWindowsPath(text).is_absolute():
        return True
    if text and os.path.exists(text):  # noqa: PTH110 - `Path.exists` fails for text that is too long
        return True
    return _NOT_IN_PATHS.search(text) is None and (text.count("/") > 1 or "\\" in text)
