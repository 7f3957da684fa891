"""What an exported ONNX file says about itself, under the metadata key `mlcak`: written and read here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ..errors import MLCAKError
from ..radiographs.choices import FITS, VOI_MODES, Fit, Voi
from ..radiographs.grey_values import PERCENTILE_REFERENCE_PX, PERCENTILES

METADATA_KEY = "mlcak"
#: Names of the model files, by the type of their weights.
MODEL_FILES = {"float32": "model.onnx", "float16": "model_float16.onnx", "int8": "model_int8.onnx"}
PREPROCESS_FILE = "preprocess.onnx"
RESEARCH_NOTICE = "Research use only: not a medical device, not for diagnosis."
_FORMAT = 1


@dataclass(frozen=True)
class OnnxMetadata:
    """Everything beside the weights that a prediction needs. Stored as one JSON object with these names and `format`.

    Args:
        part (`str`):
            `"model"` (pixel values to logits) or `"preprocess"` (grey image to pixel values).
        model (`str`):
            Name of the model.
        weights (`str`, *optional*):
            SHA-256 of the original weights, or the commit on the Hub.
        mlcak_version (`str`):
            Version of the package that wrote the file.
        global_labels, local_labels (`list[str]`):
            Labels in the order of `logits` and of `local_logits`.
        unlearned_findings (`list[str]`):
            Local labels that the model never saw in training. Their logits mean nothing.
        problem_type (`str`):
            `"single_label_classification"`: softmax of `logits`. `"multi_label_classification"`: sigmoid of each.
            Local logits always take the sigmoid.
        size_px (`int`):
            Side of the square that the model takes, in pixels.
        fit (`str`):
            How other shapes become a square: `"pad"` with 0, centred, or `"squash"`.
        lowres (`int`, *optional*):
            Side of the square that is enlarged to `size_px`, if any.
        voi (`str`):
            How the grey values of a file were read in training: `"dicom"`, `"percentile"` or `"none"`.
        percentiles (`list[float]`):
            Which percentiles become 0 and 1 with `voi="percentile"`.
        percentile_reference_px (`int`):
            Longer side of the image that they are taken from, in pixels.
        image_mean, image_std (`list[float]`):
            Normalisation of grey values in [0, 1], one number per channel.
        operating_points (`dict`, *optional*):
            The content of `operating_points.json`: thresholds on the uncalibrated probabilities, and temperatures.
        distance_limit (`float`, *optional*):
            Largest `distance` of an image that is like the training images.
        notice (`str`, *optional*):
            For whom the model is meant.
    """

    part: Literal["model", "preprocess"]
    model: str
    weights: str | None
    mlcak_version: str
    global_labels: list[str]
    local_labels: list[str]
    unlearned_findings: list[str]
    problem_type: str
    size_px: int
    fit: Fit
    lowres: int | None
    voi: Voi
    image_mean: list[float]
    image_std: list[float]
    operating_points: dict[str, Any] | None = None
    distance_limit: float | None = None
    percentiles: tuple[float, ...] = PERCENTILES
    percentile_reference_px: int = PERCENTILE_REFERENCE_PX
    notice: str = RESEARCH_NOTICE

    def to_json(self) -> str:
        """Return the text to store under [`METADATA_KEY`]."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], file: str) -> OnnxMetadata:
        """Read the metadata of an ONNX file.

        Args:
            properties (`Mapping[str, str]`):
                All metadata of the file.
            file (`str`):
                Its name, for the error.

        Raises:
            [`MLCAKError`]: When the file was not written by `mlcak export`, or by a later version of it.
        """
        text = properties.get(METADATA_KEY)
        if text is None:
            raise MLCAKError(
                f"{file} must be a file that `mlcak export --to onnx` wrote; it has no metadata {METADATA_KEY!r}, so it"
                " is the model of another program. Export a trained model first."
            )
        try:
            record = json.loads(text)
            if record.pop("format") != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT}")
            found = cls(**record)
            found._check()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MLCAKError(
                f"{file} has metadata that cannot be read ({error}). Export the model again with this version."
            ) from error
        return found

    def _check(self) -> None:
        unknown = {self.part} - {"model", "preprocess"} or {self.fit} - {*FITS} or {self.voi} - {*VOI_MODES}
        if unknown:
            raise ValueError(f"unknown value {unknown.pop()!r}")
        for name in ("global_labels", "local_labels", "unlearned_findings"):
            if not all(isinstance(label, str) for label in getattr(self, name)):
                raise ValueError(f"{name} must be names")
        if len(self.image_mean) not in (1, 3) or len(self.image_std) != len(self.image_mean):
            raise ValueError("image_mean and image_std must have one number per channel")
        if not isinstance(self.size_px, int) or self.size_px < 1:
            raise ValueError("size_px must be at least 1")
