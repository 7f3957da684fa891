"""Radiograph files -> predictions, batch by batch, by a model of any runtime. Needs neither torch nor transformers."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .. import __version__
from ..errors import MLCAKError
from ..explanation.choices import METHODS, Explanation, label_index, label_names
from ..explanation.overlay import draw_heatmap, enlarge_for_display
from ..image_geometry_mlcak import check_choice
from ..probabilities import MULTI_LABEL, probabilities
from ..radiographs.choices import Fit, ValueRange, Voi, check_value_range
from ..worker_processes import map_in_processes
from .decisions import Safeguards
from .outputs import HeatmapNames, check_outputs
from .reading import OnSuspect, Prediction, ReadFile, read_ahead, read_file

# zlib level of the heatmaps: a third of the time of the default for a fifth more bytes.
_PNG_COMPRESSION = 2

Squares = NDArray[np.float32]


class ModelOutputs(NamedTuple):
    """What a runtime computes for a batch.

    Args:
        logits (`np.ndarray` of shape `(B, global labels)`):
            Of the global head.
        local_logits (`np.ndarray` of shape `(B, findings)`, *optional*):
            Of the local head.
        attention (`np.ndarray` of shape `(B, rows, columns)`, *optional*):
            The class token's row of the MLCAK map over the patches.
        distances (`np.ndarray` of shape `(B,)`, *optional*):
            From the training images, for a model with a reference.
    """

    logits: NDArray[Any]
    local_logits: NDArray[Any] | None = None
    attention: NDArray[Any] | None = None
    distances: NDArray[Any] | None = None


class ModelInput(NamedTuple):
    """How a model wants its radiographs to be read.

    Args:
        read_px (`int`):
            Side of the square that is read, in pixels.
        size_px (`int`):
            Side of the square that the model sees. It is larger than `read_px` only for a model with `lowres`.
        fit, voi (`str`):
            As in [`read_radiograph`].
    """

    read_px: int
    size_px: int
    fit: Fit
    voi: Voi


class FilePredictor(ABC):
    """What predictors of all runtimes share: reading, checks, decisions, refusals and heatmaps.

    A runtime adds [`run`], and [`explained`] if it can compute gradients.

    Args:
        model_input ([`ModelInput`]):
            How files are read.
        value_range, voi, on_suspect:
            As in [`RadiographPredictor`].
    """

    #: Names of the labels, in the order of the logits, and how the global ones become probabilities.
    global_labels: list[str]
    local_labels: list[str]
    problem_type: str
    has_attention: bool
    #: Name of the model, and digest of its weights or its commit on the Hub.
    model_name: str | None = None
    weights: str | None = None
    #: What runs the model.
    runtime: str = "torch"
    #: Findings that the model never saw in training.
    unlearned_findings: frozenset[str] = frozenset()
    #: What `mlcak calibrate` wrote beside the weights.
    safeguards: Safeguards = Safeguards()

    def __init__(
        self, model_input: ModelInput, value_range: ValueRange | None, voi: Voi | None, on_suspect: OnSuspect
    ) -> None:
        if value_range is not None:
            check_value_range(value_range)
        check_choice("on_suspect", on_suspect, get_args(OnSuspect), MLCAKError)
        self.model_input, self.value_range, self.on_suspect = model_input, value_range, on_suspect
        self.voi: Voi = voi or model_input.voi

    @abstractmethod
    def run(self, squares: Squares, attention: bool) -> ModelOutputs:
        """Run the model on squares of shape `(B, read_px, read_px)` in [0, 1], with or without its attention."""

    def explained(self, squares: Squares, labels: Sequence[int], method: str) -> NDArray[Any]:
        """Compute maps of shape `(B, rows, columns)` that explain one label of each image by one of `METHODS`.

        Raises:
            [`MLCAKError`]: When the runtime cannot compute them.
        """
        raise MLCAKError(
            f"The explanation {method!r} needs the gradients of PyTorch; an ONNX file gives 'attention' only. Use "
            "--explain attention, or the original model."
        )

    @property
    def provenance(self) -> dict[str, str]:
        """Name of the model, version of this package and digest of the weights, for a table of predictions."""
        return {"model": self.model_name or "", "mlcak_version": __version__, "weights": (self.weights or "")[:12]}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything about the model that changes a prediction."""
        points, reference = self.safeguards.points, self.safeguards.reference
        parts: list[Any] = [self.model_name, self.weights, self.runtime, __version__, sorted(self.unlearned_findings)]
        parts += [None if points is None else points.record(), None if reference is None else reference.limit]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def choices(self) -> dict[str, Any]:
        """What changes a prediction, by the option of `mlcak predict`. Rows of other choices belong to another run."""
        found = {"model": self.fingerprint, "--voi": self.voi, "--value-range": self.value_range}
        return found | {"--on-suspect": self.on_suspect, "--operating-point": self.safeguards.rule}

    def predict(self, files: Iterable[str | os.PathLike[str]], **options: Any) -> list[Prediction]:
        """Predict all files and return a list; the options are those of [`stream`]."""
        return list(self.stream(files, **options))

    def stream(
        self,
        files: Iterable[str | os.PathLike[str]],
        batch_size: int = 16,
        attention: bool = False,
        heatmaps_dir: str | os.PathLike[str] | HeatmapNames | None = None,
        progress: bool = False,
        workers: int = 1,
        explanation: Explanation = Explanation(),  # noqa: B008 - frozen
    ) -> Iterator[Prediction]:
        """Predict files in batches and in their order. While one batch is predicted, the next one is read.

        A file that cannot be read gives a prediction with `error`; the others are not affected.

        Args:
            files (`Iterable`):
                Radiographs, as [`find_radiographs`] lists them. With `heatmaps_dir` or several workers, all of them are
                listed before the first is read.
            batch_size (`int`, *optional*, defaults to 16):
                Files per forward pass.
            attention (`bool`, *optional*, defaults to `False`):
                Whether to return the class token's attention over the patches.
            heatmaps_dir (`str`, `os.PathLike` or [`HeatmapNames`], *optional*):
                Folder for a heatmap of each file, as PNG. It is made if it is missing. [`HeatmapNames`] leave out the
                names that are used already.
            progress (`bool`, *optional*, defaults to `False`):
                Whether to show a progress bar on standard error.
            workers (`int`, *optional*, defaults to 1):
                Number of processes that read files while the model runs. 1 reads in a thread of this process.
            explanation ([`Explanation`], *optional*):
                Which map the heatmaps show. Defaults to the class token's attention.

        Yields:
            [`Prediction`]: One per file.

        Raises:
            [`MLCAKError`]: When `batch_size` or `workers` is below 1, `heatmaps_dir` holds one of the files, or the
                model has no attention to show, or has not learned the label to explain.
        """
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value < 1:
                raise MLCAKError(f"{name} must be at least 1; got {value}.")
        self._check_shown(attention or heatmaps_dir is not None, explanation)
        names = None
        if heatmaps_dir is not None:
            names = heatmaps_dir if isinstance(heatmaps_dir, HeatmapNames) else HeatmapNames(heatmaps_dir)
            # All names at once: the heatmap of an early file could overwrite a later one.
            files = list(files)
            check_outputs(files, heatmaps_dir=names.folder)
            names.folder.mkdir(parents=True, exist_ok=True)
        total = len(files) if isinstance(files, Sized) else None
        read_one = partial(
            read_file,
            size_px=self.model_input.read_px,
            fit=self.model_input.fit,
            voi=self.voi,
            value_range=self.value_range,
            on_suspect=self.on_suspect,
            with_picture=names is not None,
        )
        if workers > 1:
            paths, module = [Path(file) for file in files], read_file.__module__
            read = map_in_processes(read_one, paths, workers, doing="reading radiographs", preload=module)
            batches = iter(lambda: list(islice(read, batch_size)), [])
        else:
            batches = read_ahead(map(read_one, map(Path, files)), batch_size)
        with tqdm(total=total, desc="Predicting", unit="file", disable=not progress or None) as bar:
            for batch in batches:
                usable = [file for file in batch if file.radiograph is not None]
                if usable:
                    squares = np.stack([file.radiograph.pixels for file in usable if file.radiograph])
                    self._predict_batch(usable, squares, attention or names is not None)
                    drawn = [row for row, file in enumerate(usable) if file.prediction.probabilities]
                    if names is not None and drawn:
                        self._draw_batch([usable[row] for row in drawn], squares[drawn], explanation, names)
                bar.update(len(batch))
                yield from (file.prediction for file in batch)

    def _check_shown(self, attention: bool, explanation: Explanation) -> None:
        """Check that the model has attention, if it is shown, and knows the label that is explained."""
        if attention and not self.has_attention:
            raise MLCAKError("Heatmaps and attention need a model with attention; got a CNN. Leave them out.")
        if explanation.label is not None:
            label_index(self, explanation.label)
            if explanation.label in self.unlearned_findings:
                raise MLCAKError(f"The model never saw {explanation.label!r} in training. Explain another label.")

    def _predict_batch(self, batch: Sequence[ReadFile], squares: Squares, attention: bool) -> None:
        """Fill in the predictions of files."""
        found = self.run(squares, attention)
        rows = probabilities(found.logits, self.problem_type).tolist()
        local_rows = [] if found.local_logits is None else probabilities(found.local_logits, MULTI_LABEL).tolist()
        distances = None if found.distances is None else found.distances.tolist()
        unlearned = dict.fromkeys(self.unlearned_findings & set(self.local_labels), float("nan"))
        for number, file in enumerate(batch):
            prediction = file.prediction
            prediction.probabilities = dict(zip(self.global_labels, rows[number], strict=True))
            if local_rows:
                prediction.findings = dict(zip(self.local_labels, local_rows[number], strict=True)) | unlearned
            if attention and found.attention is not None:
                prediction.attention = found.attention[number].astype(np.float32)
            self.safeguards.apply(prediction, None if distances is None else distances[number], self.on_suspect)

    def _draw_batch(
        self, batch: Sequence[ReadFile], squares: Squares, explanation: Explanation, names: HeatmapNames
    ) -> None:
        """Draw a heatmap of each file that was predicted."""
        method = explanation.method
        of_labels = [[*file.prediction.findings.values(), *file.prediction.probabilities.values()] for file in batch]
        first = len(self.local_labels)
        labels = [first + int(np.argmax(scores[first:])) for scores in of_labels]
        if explanation.label is not None:
            labels = [label_index(self, explanation.label)] * len(batch)
        maps: Any = [file.prediction.attention for file in batch]
        if method != "attention":
            maps = self.explained(squares, labels, method).astype(np.float32)
        for file, label, scores, found in zip(batch, labels, of_labels, maps, strict=True):
            name = label_names(self)[label]
            shown = METHODS[method].replace("the label", name)
            path = names.next(file.prediction.file)
            file.prediction.heatmap = self._draw(file, found, f"{name} {scores[label]:.2f}", shown, path)

    def _draw(self, file: Any, found: Any, caption: str, shown: str, path: Path) -> Path:
        """Draw the heatmap of a [`ReadFile`] that was predicted, so that none of its parts is missing."""
        picture = draw_heatmap(
            enlarge_for_display(file.picture),
            found,
            original_size=(file.radiograph.original_height, file.radiograph.original_width),
            model_size_px=self.model_input.size_px,
            fit=self.model_input.fit,
            caption=caption,
            shown=shown,
        )
        picture.save(path, compress_level=_PNG_COMPRESSION)
        return path


def predict_each(predictor: FilePredictor, files: Sequence[Path], heatmaps_dir: Path | None = None) -> list[Prediction]:
    """Predict files in one batch. After an unexpected exception, each is tried alone, so that no file stops the others.

    Returns:
        `list` of [`Prediction`]: One for each file. One that causes an unexpected exception has an `error`.
    """
    try:
        return predictor.predict(files, batch_size=max(1, len(files)), heatmaps_dir=heatmaps_dir)
    except Exception as error:
        if len(files) > 1:
            return [prediction for file in files for prediction in predict_each(predictor, [file], heatmaps_dir)]
        # The text of the exception could quote the file; its type cannot.
        reason = f"The prediction failed ({type(error).__name__}). Please report this, if you may, with the file."
        return [Prediction(file, error=reason) for file in files]
