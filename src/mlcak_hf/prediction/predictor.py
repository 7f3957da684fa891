"""A trained model with its image processor, applied to radiograph files batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from transformers.utils import logging

from .. import __version__
from ..configuration_mlcak import MLCAKConfig
from ..errors import MLCAKError
from ..explanation.class_token import class_token_attention
from ..explanation.explain import METHODS, Explanation, explain, label_index, label_names
from ..explanation.overlay import draw_heatmap, enlarge_for_display
from ..image_geometry_mlcak import check_choice
from ..image_processing_mlcak import MLCAKImageProcessor
from ..modeling_mlcak import MLCAKForCXRClassification, MLCAKOutput
from ..pretrained import check_processor, load_model, load_processor, weights_digest
from ..probabilities import probabilities
from ..radiographs.choices import Fit, ValueRange, Voi, check_value_range
from ..shipped import resolve_checkpoint
from ..training.record import TRAINING_FILE, TrainingRecord
from ..trust.reference import captured_class_tokens
from ..worker_processes import map_in_processes
from .decisions import Rule, Safeguards
from .outputs import HeatmapNames, check_outputs
from .reading import OnSuspect, Prediction, ReadFile, read_file

# zlib level of the heatmaps: a third of the time of the default for a fifth more bytes.
_PNG_COMPRESSION = 2


class RadiographPredictor:
    """Predicts global labels and local findings for radiograph files (DICOM, PNG, JPEG).

    Files are read at the model's resolution, like [`read_radiograph`] with `size_px`, and with the range of grey values
    (`voi`) that the processor was saved with.

    Args:
        model ([`MLCAKForCXRClassification`]):
            The model. It is moved to `device` and set to evaluation mode.
        processor ([`MLCAKImageProcessor`]):
            The processor it was trained with.
        device (`str` or `torch.device`, *optional*):
            Where to run, such as `"cpu"` or `"cuda:1"`. Defaults to the first GPU, or to the CPU without one.
        value_range (`tuple[float, float]`, *optional*):
            For PNG and JPEG files: the stored values that are black and white, such as (0, 4095) for 12 bits in 16.
            Without it, a 16-bit picture that uses at most an eighth of its range is refused.
        voi (`str`, *optional*):
            Range of grey values, as in [`read_radiograph`]. Defaults to the processor's.
        on_suspect (`str`, *optional*, defaults to `"warn"`):
            What to do with an image that does not look like an upright frontal chest radiograph, or that is unlike the
            training images: `"warn"` sets `warning`, `"refuse"` also sets `refused_because` and predicts nothing.

    Raises:
        [`MLCAKError`]: When the processor does not fit the model, or the device cannot be used.

    Example:

    ```python
    >>> from mlcak_hf import RadiographPredictor, find_radiographs
    >>> predictor = RadiographPredictor.from_pretrained("demo/student-mlcak")
    >>> for prediction in predictor.stream(find_radiographs("demo/phantoms/test"), heatmaps_dir="demo/heatmaps"):
    ...     print(prediction.image_id, prediction.probabilities["Abnormal"])
    ```
    """

    #: Name of the model, and digest of its weights or its commit on the Hub, if [`from_pretrained`] loaded it.
    model_name: str | None = None
    weights: str | None = None
    #: Findings that the model never saw in training.
    unlearned_findings: frozenset[str] = frozenset()
    #: What `mlcak calibrate` wrote beside the weights.
    safeguards: Safeguards = Safeguards()

    def __init__(
        self,
        model: MLCAKForCXRClassification,
        processor: MLCAKImageProcessor,
        device: str | torch.device | None = None,
        value_range: ValueRange | None = None,
        voi: Voi | None = None,
        on_suspect: OnSuspect = "warn",
    ) -> None:
        if value_range is not None:
            check_value_range(value_range)
        check_choice("on_suspect", on_suspect, get_args(OnSuspect), MLCAKError)
        check_processor(processor, model.config)
        self.model, self.processor = model, processor
        self.value_range, self.on_suspect = value_range, on_suspect
        self.voi = voi or cast(Voi, processor.voi)
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            # Through the base class: the signature of transformers' own `to` is broken for type checkers.
            torch.nn.Module.to(self.model, self.device).train(False)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise MLCAKError(
                f"The device {str(device)!r} cannot be used ({str(error).splitlines()[0]}). Name another, such as cpu."
            ) from error

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        revision: str = "main",
        operating_point: Rule = "youden",
        **options: Any,
    ) -> RadiographPredictor:
        """Load a model and its processor from a folder or from the Hub.

        Args:
            path_or_id (`str` or `os.PathLike`):
                Folder of a trained model, its Hub id, or the name of a shipped checkpoint, such as `pneumonia-28`.
            revision (`str`, *optional*, defaults to `"main"`):
                Branch, tag or commit on the Hub.
            operating_point (`str`, *optional*, defaults to `"youden"`):
                Which threshold decides, if the model has operating points: `"youden"`, `"sensitivity"` or
                `"specificity"`.
            options: `device`, `value_range`, `voi` and `on_suspect`, as in the class.

        Raises:
            [`MLCAKError`]: When there is no such folder or repository, or it does not hold a complete MLCAK model.
        """
        check_choice("operating_point", operating_point, get_args(Rule), MLCAKError)
        source = resolve_checkpoint(str(path_or_id))
        model = load_model(source, error=MLCAKError, revision=revision)
        processor = load_processor(source, model.config, error=MLCAKError, revision=revision)
        predictor = cls(model, processor, **options)
        predictor.model_name = Path(source).resolve().name if Path(source).is_dir() else source
        predictor.weights = weights_digest(source) or getattr(model.config, "_commit_hash", None)
        predictor.safeguards = Safeguards.load(source, revision, operating_point)
        if Path(source, TRAINING_FILE).is_file():
            predictor.unlearned_findings = TrainingRecord.load(source).unlearned_findings
        return predictor

    @property
    def provenance(self) -> dict[str, str]:
        """Name of the model, version of this package and digest of the weights, for a table of predictions."""
        return {"model": self.model_name or "", "mlcak_version": __version__, "weights": (self.weights or "")[:12]}

    def predict(self, files: Iterable[str | os.PathLike[str]], **options: Any) -> list[Prediction]:
        """Predict all files and return a list; the options are those of [`RadiographPredictor.stream`]."""
        return list(self.stream(files, **options))

    def stream(
        self,
        files: Iterable[str | os.PathLike[str]],
        batch_size: int = 16,
        attention: bool = False,
        heatmaps_dir: str | os.PathLike[str] | None = None,
        progress: bool = False,
        workers: int = 1,
        explanation: Explanation = Explanation(),  # noqa: B008 - frozen
    ) -> Iterator[Prediction]:
        """Predict files in batches and in their order, holding one batch in memory at a time.

        A file that cannot be read gives a prediction with `error`; the others are not affected.

        Args:
            files (`Iterable`):
                Radiographs, as [`find_radiographs`] lists them. With `heatmaps_dir` or several workers, all of them are
                listed before the first is read.
            batch_size (`int`, *optional*, defaults to 16):
                Files per forward pass.
            attention (`bool`, *optional*, defaults to `False`):
                Whether to return the class token's attention over the patches.
            heatmaps_dir (`str` or `os.PathLike`, *optional*):
                Folder for a heatmap of each file, as PNG. It is made if it is missing.
            progress (`bool`, *optional*, defaults to `False`):
                Whether to show a progress bar on standard error.
            workers (`int`, *optional*, defaults to 1):
                Number of processes that read files while the model runs. 1 reads in this process.
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
            # All names at once: the heatmap of an early file could overwrite a later one.
            files = list(files)
            check_outputs(files, heatmaps_dir=heatmaps_dir)
            Path(heatmaps_dir).mkdir(parents=True, exist_ok=True)
            names = HeatmapNames(heatmaps_dir)
        total, processor = len(files) if isinstance(files, Sized) else None, self.processor
        read_one = partial(
            read_file,
            size_px=processor.size["height"] if processor.lowres is None else processor.lowres,
            fit=cast(Fit, processor.fit),
            voi=self.voi,
            value_range=self.value_range,
            on_suspect=self.on_suspect,
            with_picture=names is not None,
        )
        read: Iterator[ReadFile] = map(read_one, map(Path, files))
        if workers > 1:
            paths, module = [Path(file) for file in files], read_file.__module__
            read = map_in_processes(read_one, paths, workers, doing="reading radiographs", preload=module)
        with logging.tqdm(total=total, desc="Predicting", unit="file", disable=not progress or None) as bar:
            while batch := list(islice(read, batch_size)):
                usable = [file for file in batch if file.radiograph is not None]
                if usable:
                    pixels = self._predict_batch(usable, attention or names is not None)
                    drawn = [row for row, file in enumerate(usable) if file.prediction.probabilities]
                    if names is not None and drawn:
                        self._draw_batch([usable[row] for row in drawn], pixels[drawn], explanation, names)
                bar.update(len(batch))
                yield from (file.prediction for file in batch)

    def _check_shown(self, attention: bool, explanation: Explanation) -> None:
        """Check that the model has attention, if it is shown, and knows the label that is explained."""
        config = cast(MLCAKConfig, self.model.config)
        if attention and not config.has_attention:
            raise MLCAKError("Heatmaps and attention need a model with attention; got a CNN. Leave them out.")
        if explanation.label is not None:
            label_index(config, explanation.label)
            if explanation.label in self.unlearned_findings:
                raise MLCAKError(f"The model never saw {explanation.label!r} in training. Explain another label.")

    def _predict_batch(self, batch: Sequence[ReadFile], attention: bool) -> torch.Tensor:
        """Fill in the predictions of files; returns the pixels that the model saw."""
        # `reduce`, not `__call__`: values are in [0, 1] already, whatever range the processor expects of others.
        reduced = self.processor.reduce(np.stack([file.radiograph.pixels for file in batch if file.radiograph]))
        pixel_values = torch.from_numpy(reduced).to(self.device, self.model.dtype)
        with torch.inference_mode(), captured_class_tokens(self.model) as tokens:
            output: MLCAKOutput = self.model(pixel_values=pixel_values, output_attentions=attention)
        config, grid_size = self.model.config, self.model.grid_size if attention else (0, 0)
        assert output.logits is not None
        rows = probabilities(output.logits.float().cpu(), str(config.problem_type)).tolist()
        local_rows = [] if output.local_logits is None else probabilities(output.local_logits.float().cpu()).tolist()
        # Only the row of the class token.
        mlcak = None if output.mlcak is None else output.mlcak[:, :1].float().cpu().numpy()
        maps: Any = [] if mlcak is None else class_token_attention(mlcak, config.num_prefix_tokens, grid_size)
        reference = self.safeguards.reference
        distances = None if reference is None else reference.distances(tokens[0].float().cpu().numpy()).tolist()
        unlearned = dict.fromkeys(self.unlearned_findings & set(config.local_labels), float("nan"))
        for number, file in enumerate(batch):
            prediction = file.prediction
            prediction.probabilities = dict(zip(config.global_labels, rows[number], strict=True))
            if local_rows:
                prediction.findings = dict(zip(config.local_labels, local_rows[number], strict=True)) | unlearned
            if mlcak is not None:
                prediction.attention = maps[number].astype(np.float32)
            self.safeguards.apply(prediction, None if distances is None else distances[number], self.on_suspect)
        return pixel_values

    def _draw_batch(
        self, batch: Sequence[ReadFile], pixels: torch.Tensor, explanation: Explanation, names: HeatmapNames
    ) -> None:
        """Draw a heatmap of each file that was predicted."""
        config: Any = self.model.config
        method = explanation.method
        of_labels = [[*file.prediction.findings.values(), *file.prediction.probabilities.values()] for file in batch]
        first = config.num_local_labels
        labels = [first + int(np.argmax(scores[first:])) for scores in of_labels]
        if explanation.label is not None:
            labels = [label_index(config, explanation.label)] * len(batch)
        maps: Any = [file.prediction.attention for file in batch]
        if method != "attention":
            maps = explain(self.model, pixels, labels, [method])[method].astype(np.float32)
        for file, label, scores, found in zip(batch, labels, of_labels, maps, strict=True):
            name = label_names(config)[label]
            shown = METHODS[method].replace("the label", name)
            path = names.next(file.prediction.file)
            file.prediction.heatmap = self._draw(file, found, f"{name} {scores[label]:.2f}", shown, path)

    def _draw(self, file: Any, found: Any, caption: str, shown: str, path: Path) -> Path:
        """Draw the heatmap of a [`ReadFile`] that was predicted, so that none of its parts is missing."""
        picture = draw_heatmap(
            enlarge_for_display(file.picture),
            found,
            original_size=(file.radiograph.original_height, file.radiograph.original_width),
            model_size_px=self.model.config.image_size,
            fit=self.processor.fit,
            caption=caption,
            shown=shown,
        )
        picture.save(path, compress_level=_PNG_COMPRESSION)
        return path
