"""Prediction by PyTorch: a trained model with its image processor, applied to radiograph files batch by batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import torch
from numpy.typing import NDArray
from transformers.utils.hub import cached_file

from ..errors import MLCAKError
from ..explanation.class_token import class_token_attention
from ..explanation.explain import explain
from ..image_geometry_mlcak import check_choice
from ..image_processing_mlcak import MLCAKImageProcessor
from ..modeling_mlcak import MLCAKForCXRClassification, MLCAKOutput
from ..pretrained import check_processor, load_model, load_processor
from ..radiographs.choices import Fit, ValueRange, Voi
from ..shipped import resolve_checkpoint
from ..training.record import TRAINING_FILE, TrainingRecord
from ..trust.operating_points import OPERATING_POINTS_FILE, OperatingPoints
from ..trust.reference import REFERENCE_FILE, Reference, captured_class_tokens
from ..weights import weights_digest
from .decisions import Rule, Safeguards
from .file_predictor import FilePredictor, ModelInput, ModelOutputs, Squares
from .reading import OnSuspect


class RadiographPredictor(FilePredictor):
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

    def __init__(
        self,
        model: MLCAKForCXRClassification,
        processor: MLCAKImageProcessor,
        device: str | torch.device | None = None,
        value_range: ValueRange | None = None,
        voi: Voi | None = None,
        on_suspect: OnSuspect = "warn",
    ) -> None:
        config: Any = model.config
        check_processor(processor, config)
        side = int(processor.size["height"])
        read_px = side if processor.lowres is None else int(processor.lowres)
        model_input = ModelInput(read_px, side, cast(Fit, processor.fit), cast(Voi, processor.voi))
        super().__init__(model_input, value_range, voi, on_suspect)
        self.model, self.processor = model, processor
        self.global_labels, self.local_labels = config.global_labels, list(config.local_labels)
        self.problem_type, self.has_attention = str(config.problem_type), config.has_attention
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
        predictor.safeguards = _safeguards(source, revision, operating_point)
        if Path(source, TRAINING_FILE).is_file():
            predictor.unlearned_findings = TrainingRecord.load(source).unlearned_findings
        return predictor

    @property
    def reference(self) -> Reference | None:
        """What the distances of images are measured from; `None` without the one that `mlcak calibrate` writes."""
        found = self.safeguards.reference
        return found if isinstance(found, Reference) else None

    def run(self, squares: Squares, attention: bool) -> ModelOutputs:
        """Run the model on squares of shape `(B, read_px, read_px)` in [0, 1], with or without its attention."""
        with torch.inference_mode(), captured_class_tokens(self.model) as tokens:
            output: MLCAKOutput = self.model(pixel_values=self._pixels(squares), output_attentions=attention)
        assert output.logits is not None
        maps, reference = None, self.reference
        if output.mlcak is not None:
            # Only the row of the class token.
            row = output.mlcak[:, :1].float().cpu().numpy()
            maps = class_token_attention(row, self.model.config.num_prefix_tokens, self.model.grid_size)
        return ModelOutputs(
            output.logits.float().cpu().numpy(),
            None if output.local_logits is None else output.local_logits.float().cpu().numpy(),
            maps,
            None if reference is None else reference.distances(tokens[0].float().cpu().numpy()),
        )

    def explained(self, squares: Squares, labels: Sequence[int], method: str) -> NDArray[Any]:
        """Compute maps of shape `(B, rows, columns)` that explain one label of each image by one of `METHODS`."""
        return explain(self.model, self._pixels(squares), labels, [method])[method]

    def _pixels(self, squares: Squares) -> torch.Tensor:
        # `reduce`, not `__call__`: values are in [0, 1] already, whatever range the processor expects of others.
        return torch.from_numpy(self.processor.reduce(squares)).to(self.device, self.model.dtype)


def _safeguards(source: str, revision: str, rule: Rule) -> Safeguards:
    """Read what `mlcak calibrate` wrote beside a model's weights, in a folder or on the Hub."""
    folder = Path(source)
    if not folder.is_dir():
        files = [_file_on_hub(source, name, revision) for name in (OPERATING_POINTS_FILE, REFERENCE_FILE)]
        found = next(filter(None, files), None)
        if found is None:
            return Safeguards(rule=rule)
        folder = found.parent
    if not any((folder / name).is_file() for name in (OPERATING_POINTS_FILE, REFERENCE_FILE)):
        return Safeguards(rule=rule)
    weights = weights_digest(folder)
    return Safeguards(OperatingPoints.load(folder, weights), Reference.load(folder, weights), rule)


def _file_on_hub(source: str, name: str, revision: str) -> Path | None:
    file = cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if file is None else Path(file)
