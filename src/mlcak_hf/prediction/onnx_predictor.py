"""Prediction by onnxruntime: an exported model, applied to radiograph files. Needs neither torch nor transformers."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, get_args

from ..errors import MLCAKError
from ..image_geometry_mlcak import check_choice, make_pixel_values
from ..radiographs.choices import ValueRange, Voi
from ..trust.operating_points import OperatingPoints
from ..trust.reference import DistanceLimit
from .decisions import Rule, Safeguards
from .file_predictor import FilePredictor, ModelInput, ModelOutputs, Squares
from .onnx_metadata import MODEL_FILES, OnnxMetadata
from .reading import OnSuspect

_REMEDY = "Name a file or folder that `mlcak export MODEL FOLDER --to onnx` wrote."


def find_onnx_file(source: str | os.PathLike[str]) -> Path | None:
    """Return the ONNX file that a name means; `None` if it means something else, such as a model for PyTorch.

    Args:
        source (`str` or `os.PathLike`):
            A file, or a folder that `mlcak export --to onnx` wrote: of its files, float32 comes first.
    """
    path = Path(source)
    if path.is_file() or path.suffix == ".onnx":
        return path
    files = (path / name for name in MODEL_FILES.values())
    return None if (path / "config.json").is_file() else next((file for file in files if file.is_file()), None)


class OnnxPredictor(FilePredictor):
    """Predicts radiograph files as [`RadiographPredictor`] does, by an exported model.

    Args:
        source (`str` or `os.PathLike`):
            A model file that `mlcak export --to onnx` wrote, or its folder.
        value_range, voi, on_suspect:
            As in [`RadiographPredictor`].
        operating_point (`str`, *optional*, defaults to `"youden"`):
            Which threshold decides: `"youden"`, `"sensitivity"` or `"specificity"`.
        threads (`int`, *optional*, defaults to 1):
            Threads of the model.

    Raises:
        [`MLCAKError`]: When onnxruntime is not installed, or the file is not such a model.

    Example:

    ```python
    >>> from mlcak_hf import OnnxPredictor
    >>> predictor = OnnxPredictor("pneumonia-onnx")  # doctest: +SKIP
    >>> predictor.predict(["chest.dcm"])[0].probabilities  # doctest: +SKIP
    ```
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        value_range: ValueRange | None = None,
        voi: Voi | None = None,
        on_suspect: OnSuspect = "warn",
        operating_point: Rule = "youden",
        threads: int = 1,
    ) -> None:
        check_choice("operating_point", operating_point, get_args(Rule), MLCAKError)
        file = find_onnx_file(source)
        if file is None:
            raise MLCAKError(f"{source} holds no exported ONNX model. {_REMEDY}")
        self._session = _session(file, threads)
        about = OnnxMetadata.from_properties(self._session.get_modelmeta().custom_metadata_map, file.name)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._check(file, about)
        side = about.size_px if about.lowres is None else about.lowres
        super().__init__(ModelInput(side, about.size_px, about.fit, about.voi), value_range, voi, on_suspect)
        self.about = about
        self.global_labels, self.local_labels = about.global_labels, about.local_labels
        self.problem_type, self.has_attention = about.problem_type, "attention" in self._outputs
        self.runtime = f"onnxruntime {file.name}"
        self.model_name, self.weights = about.model, about.weights
        self.unlearned_findings = frozenset(about.unlearned_findings)
        self.safeguards = _safeguards(about, file.name, operating_point)

    def run(self, squares: Squares, attention: bool) -> ModelOutputs:
        """Run the model on squares of shape `(B, read_px, read_px)` in [0, 1], with or without its attention."""
        about = self.about
        pixel_values = make_pixel_values(
            squares, about.size_px, about.fit, about.lowres, about.image_mean, about.image_std
        )
        wanted = [name for name in self._outputs if attention or name != "attention"]
        found = dict(zip(wanted, self._session.run(wanted, {"pixel_values": pixel_values}), strict=True))
        return ModelOutputs(found["logits"], found.get("local_logits"), found.get("attention"), found.get("distance"))

    def _check(self, file: Path, about: OnnxMetadata) -> None:
        """Check that the graph is what the metadata says, so that a wrong file fails before the first radiograph."""
        if about.part != "model":
            raise MLCAKError(f"{file.name} makes pixel values and predicts nothing. Name model.onnx beside it.")
        widths = {output.name: output.shape[-1] for output in self._session.get_outputs()}
        expected = {"logits": len(about.global_labels)}
        if about.local_labels:
            expected["local_logits"] = len(about.local_labels)
        if about.distance_limit is not None:
            expected["distance"] = widths.get("distance", 0)
        inputs = [(entry.name, list(entry.shape[1:])) for entry in self._session.get_inputs()]
        shape = [len(about.image_mean), about.size_px, about.size_px]
        heads = {name: width for name, width in widths.items() if name != "attention"}
        if inputs != [("pixel_values", shape)] or heads != expected:
            raise MLCAKError(f"{file.name} does not fit its own metadata: it was changed after the export. {_REMEDY}")


def _session(file: Path, threads: int) -> Any:
    if importlib.util.find_spec("onnxruntime") is None:
        raise MLCAKError(
            f'{file.name} needs onnxruntime, which is not installed. Run: pip install "mlcak-hf[onnx]", or '
            "pip install onnxruntime."
        )
    from onnxruntime import InferenceSession, SessionOptions

    if not file.is_file():
        raise MLCAKError(f"There is no file {file}. {_REMEDY}")
    options = SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    try:
        return InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no common base but this one
        raise MLCAKError(
            f"{file.name} cannot be loaded by onnxruntime ({type(error).__name__}): it is not an ONNX model, or is "
            f"damaged. {_REMEDY}"
        ) from error


def _safeguards(about: OnnxMetadata, file: str, rule: Rule) -> Safeguards:
    points, limit = None, about.distance_limit
    if about.operating_points is not None:
        try:
            points = OperatingPoints.from_record(about.operating_points)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MLCAKError(f"{file} has operating points that cannot be read ({error}). Export it again.") from error
    return Safeguards(points, None if limit is None else DistanceLimit(limit), rule)
