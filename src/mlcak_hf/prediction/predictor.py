"""A trained model with its processor, applied to radiograph files batch by batch."""

import os
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedConfig
from transformers.utils import logging

from ..errors import DicomError, MLCAKError
from ..explanation.overlay import draw_heatmap, resize_for_display
from ..image_processing_mlcak import MLCAKImageProcessor
from ..modeling_mlcak import MLCAKForCXRClassification, MLCAKOutput
from ..pretrained import loading
from ..probabilities import probabilities
from ..radiographs.grey_values import ValueRange, Voi, check_value_range
from ..radiographs.read import read_with_facts
from .outputs import OutputNames, check_outputs


@dataclass
class Prediction:
    """What the model says of one file, or why the file could not be read.

    Attributes:
        file: The radiograph.
        probabilities: Probability of each global label; they sum to 1 for a single-label model. Empty on an error.
        findings: Probability of each local finding; empty for a model without a local head.
        attention: The class token's row of the MLCAK map over the patches, of shape `(rows, columns)`; its sum is the
            share of attention that goes to patches and not to the prefix tokens. None unless asked for.
        heatmap: The picture that was written, if one was asked for.
        error: Why the file could not be read; None if it was.
    """

    file: Path
    probabilities: dict[str, float] = field(default_factory=dict)
    findings: dict[str, float] = field(default_factory=dict)
    attention: npt.NDArray[np.float32] | None = None
    heatmap: Path | None = None
    error: str | None = None


@dataclass
class _Read:
    """A file of the batch in hand: its pixels for the model and, for a heatmap, a small picture of it."""

    file: Path
    pixel_values: npt.NDArray[np.float32] | None = None
    original_size: tuple[int, int] = (0, 0)
    picture: npt.NDArray[np.float32] | None = None
    error: str | None = None


class RadiographPredictor:
    """Predicts global labels and local findings for radiograph files (DICOM, PNG, JPEG).

    Files are read by [`mlcak_hf.read_radiograph`] at their full depth and with the intensity rule (`voi`) that the
    processor was saved with, then reduced by the processor to the model's size.

    Args:
        model: A classifier; it is put on `device` and into evaluation mode.
        processor: The processor it was trained with.
        device: Where to run, such as `"cpu"` or `"cuda:1"`; the first GPU if there is one, by default.
        value_range: For PNG and JPEG files: the stored values that are black and white, such as (0, 4095) for 12 bits
            in a file of 16. Without it, a 16-bit picture that keeps to an eighth of its range is refused.

    Raises:
        MLCAKError: If the processor makes images of another size or channel count than the model takes, or the device
            cannot be used.

    Example:

    ```python
    >>> from mlcak_hf.prediction import RadiographPredictor, find_radiographs
    >>> predictor = RadiographPredictor.from_pretrained("demo/student-mlcak")
    >>> for prediction in predictor.stream(find_radiographs("demo/phantoms/test"), heatmaps_dir="demo/heatmaps"):
    ...     print(prediction.file.name, prediction.probabilities["Abnormal"])
    ```
    """

    def __init__(
        self,
        model: MLCAKForCXRClassification,
        processor: MLCAKImageProcessor,
        device: str | torch.device | None = None,
        value_range: ValueRange | None = None,
    ) -> None:
        check_value_range(value_range)
        config = model.config
        made = (len(processor.image_mean), processor.size["height"], processor.size["width"])
        taken = (config.num_channels, config.image_size, config.image_size)
        if made != taken:
            raise MLCAKError(
                f"The processor makes images of (channels, height, width) = {made}, the model takes {taken}. "
                "Load the processor that was saved with the model."
            )
        self.model = model
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            # Through the base class: the signature of transformers' own `to` is broken for type checkers.
            torch.nn.Module.to(self.model, self.device).train(False)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise MLCAKError(
                f"The device {str(device)!r} cannot be used ({str(error).splitlines()[0]}). Name another, such as cpu, "
                "or none for the best there is."
            ) from error
        self.processor = processor
        self.value_range = value_range

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        device: str | torch.device | None = None,
        revision: str = "main",
        value_range: ValueRange | None = None,
    ) -> "RadiographPredictor":
        """Load a model and its processor from a folder or from the Hub.

        Args:
            path_or_id: Folder that `save_pretrained` wrote, or a repository's name on the Hub.
            device: Where to run; the first GPU if there is one, by default.
            revision: Branch, tag or commit on the Hub.
            value_range: For PNG and JPEG files, as in the class.

        Raises:
            MLCAKError: If there is no such folder or repository, or it holds no whole model, or one of another type.
        """
        source = str(path_or_id)
        if Path(source).is_dir():
            for name in ("config.json", "preprocessor_config.json"):
                if not Path(source, name).is_file():
                    raise MLCAKError(f"No {name} in {source}: name the folder that the trained model was saved to.")
        remedy = "Name the folder of a teacher or student that was trained with this package, or its Hub id."
        with loading(source, remedy=remedy, error=MLCAKError):
            settings, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
            if settings.get("model_type") != "mlcak":
                raise MLCAKError(
                    f"{source} holds a model of type {settings.get('model_type')!r}, expected 'mlcak'. "
                    "Name the folder of a teacher or student that was trained with this package."
                )
            model = MLCAKForCXRClassification.from_pretrained(source, revision=revision)
            processor = MLCAKImageProcessor.from_pretrained(source, revision=revision)
        return cls(model, processor, device, value_range)

    def predict(
        self,
        files: Iterable[str | os.PathLike[str]],
        batch_size: int = 16,
        attention: bool = False,
        heatmaps_dir: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> list[Prediction]:
        """Predict all files and return the predictions as a list; see [`RadiographPredictor.stream`]."""
        return list(self.stream(files, batch_size, attention, heatmaps_dir, progress))

    def stream(
        self,
        files: Iterable[str | os.PathLike[str]],
        batch_size: int = 16,
        attention: bool = False,
        heatmaps_dir: str | os.PathLike[str] | None = None,
        progress: bool = False,
    ) -> Iterator[Prediction]:
        """Predict files in batches, in their order, holding one batch in memory at a time.

        A file that cannot be read gives a prediction with `error`; the others go on.

        Args:
            files: Radiographs, as [`find_radiographs`] lists them.
            batch_size: Files per forward pass.
            attention: Whether to give the class token's attention over the patches with each prediction.
            heatmaps_dir: Folder to write a heatmap PNG per file into; made if it is missing. Then all of `files` are
                listed before the first is read.
            progress: Whether to show a progress bar on standard error.

        Yields:
            One prediction per file.

        Raises:
            MLCAKError: If `batch_size` is below 1, or `heatmaps_dir` holds one of the files: it could be overwritten.
        """
        if batch_size < 1:
            raise MLCAKError(f"batch_size must be at least 1, got {batch_size}.")
        names = None
        if heatmaps_dir is not None:
            # All names at once: the heatmap of an early file could overwrite a later one.
            files = list(files)
            check_outputs(files, heatmaps_dir=heatmaps_dir)
            Path(heatmaps_dir).mkdir(parents=True, exist_ok=True)
            names = OutputNames(heatmaps_dir, ".png")
        total = len(files) if isinstance(files, Sized) else None
        waiting = iter(files)
        with logging.tqdm(total=total, desc="Predicting", unit="file", disable=not progress) as bar:
            while batch := [Path(file) for file in islice(waiting, batch_size)]:
                predictions = self._predict_batch(batch, attention, names)
                bar.update(len(batch))
                yield from predictions

    def _predict_batch(self, files: list[Path], attention: bool, names: OutputNames | None) -> list[Prediction]:
        batch = [self._read(file, with_picture=names is not None) for file in files]
        readable = [read for read in batch if read.pixel_values is not None]
        described: Iterator[Prediction] = iter(())
        if readable:
            pixel_values = torch.from_numpy(np.stack([r.pixel_values for r in readable if r.pixel_values is not None]))
            described = self._describe(readable, pixel_values, attention or names is not None)
        predictions = [
            next(described) if read.pixel_values is not None else Prediction(read.file, error=read.error)
            for read in batch
        ]
        if names is not None:
            for read, prediction in zip(batch, predictions, strict=True):
                if read.picture is not None and prediction.attention is not None:
                    prediction.heatmap = self._draw(read, prediction, names.next(read.file))
        return predictions

    def _read(self, file: Path, with_picture: bool) -> _Read:
        try:
            radiograph = read_with_facts(file, voi=cast(Voi, self.processor.voi), value_range=self.value_range)
            if radiograph.underfilled:
                raise DicomError(
                    "it is a 16-bit picture with no value above an eighth of its range; say what its values reach from "
                    "and to, 0 and 4095 for 12 bits: value_range=(0, 4095) (--value-range 0 4095)"
                )
        except (MLCAKError, OSError) as error:
            # The reader's message begins with the file, which stands beside it in every form of output.
            return _Read(file, error=str(error).removeprefix(f"{file}: ").removeprefix(f"{file.name}: "))
        size = (radiograph.original_height, radiograph.original_width)
        # `reduce`, not `__call__`: the radiograph is in [0, 1] already, whatever range the processor expects of others.
        pixel_values = self.processor.reduce(radiograph.pixels[None])[0]
        return _Read(file, pixel_values, size, resize_for_display(radiograph.pixels) if with_picture else None)

    @torch.inference_mode()
    def _describe(self, batch: list[_Read], pixel_values: torch.Tensor, attention: bool) -> Iterator[Prediction]:
        output: MLCAKOutput = self.model(
            pixel_values=pixel_values.to(self.device, self.model.dtype), output_attentions=attention
        )
        config = self.model.config
        assert output.logits is not None
        scores = probabilities(output.logits.float().cpu(), str(config.problem_type))
        labels = config.global_labels
        findings = None if output.local_logits is None else probabilities(output.local_logits.float().cpu())
        maps = None
        if attention and output.mlcak is not None:
            over_patches = output.mlcak[:, 0, self.model.num_prefix_tokens :].float()
            maps = over_patches.reshape(-1, *self.model.grid_size).cpu().numpy()
        return iter(
            [
                Prediction(
                    file=read.file,
                    probabilities=_by_name(labels, scores[row]),
                    findings={} if findings is None else _by_name(config.local_labels, findings[row]),
                    attention=None if maps is None else maps[row],
                )
                for row, read in enumerate(batch)
            ]
        )

    def _draw(self, read: _Read, prediction: Prediction, path: Path) -> Path:
        assert read.picture is not None
        assert prediction.attention is not None
        highest = max(prediction.probabilities, key=lambda label: prediction.probabilities[label])
        picture = draw_heatmap(
            read.picture,
            prediction.attention,
            original_size=read.original_size,
            model_size_px=self.model.config.image_size,
            fit=self.processor.fit,
            caption=f"{highest} {prediction.probabilities[highest]:.2f}",
        )
        picture.save(path)
        return path


def _by_name(names: Iterable[str], values: npt.NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(names, map(float, values), strict=True))
