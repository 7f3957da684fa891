"""The handler of a Hugging Face Inference Endpoint, for a folder that `mlcak export MODEL FOLDER --to onnx` wrote.

It needs onnxruntime, pydicom, numpy and Pillow, neither torch nor transformers. Research use only.
"""

import base64
import binascii
import io
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mlcak_hf import OnnxPredictor
from mlcak_hf.serving.answers import answer

MAX_BYTES = 50_000_000
MAX_PIXELS = 60_000_000
TIME_LIMIT_S = 30.0
# What `InferenceClient.image_classification` sends, and what asks for more than labels and scores.
PARAMETERS = ("top_k", "function_to_apply", "findings", "decisions", "heatmap", "operating_point", "on_suspect")
_DETAILS = ("findings", "decisions", "heatmap")


class EndpointHandler:
    """Predicts one radiograph per request.

    Args:
        path (`str`, *optional*):
            The folder. Defaults to that of this file.
    """

    def __init__(self, path: str = "") -> None:
        self._folder = Path(path) if path else Path(__file__).resolve().parent
        self._predictors: dict[tuple[str, str], OnnxPredictor] = {}
        self._thread = ThreadPoolExecutor(1)
        self._predictor({})

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]] | dict[str, Any]:
        """Predict the radiograph of a request.

        Args:
            data (`dict`):
                `inputs`: a picture as Pillow image or bytes, or any file in base64, as text or as `{"dicom": text}`.
                `parameters`, *optional*: `top_k`; `findings`, `decisions` or `heatmap` (`True`) for the whole answer;
                `operating_point` (`"youden"`, `"sensitivity"`, `"specificity"`); `on_suspect` (`"warn"`, `"refuse"`).

        Returns:
            `list` of `{"label", "score"}`, highest first; the whole answer if details were asked for.

        Raises:
            `ValueError`: When the file cannot be read or is refused, or the request is not as described. An endpoint
                answers it with status 400 and the message.
        """
        parameters = data.get("parameters") or {}
        if not isinstance(parameters, dict) or (unknown := set(parameters) - set(PARAMETERS)):
            named = f"; got {', '.join(sorted(map(str, unknown)))}" if isinstance(parameters, dict) else ""
            raise ValueError(f"`parameters` must be an object with some of {', '.join(PARAMETERS)}{named}.")
        content = _content(data.get("inputs"))
        with tempfile.TemporaryDirectory(prefix="mlcak-") as folder:
            file = Path(folder, "image")
            file.write_bytes(content)
            heatmaps = Path(folder, "heatmaps") if parameters.get("heatmap") else None
            predictor = self._predictor(parameters)
            future = self._thread.submit(predictor.predict, [file], heatmaps_dir=heatmaps)
            try:
                (prediction,) = future.result(TIME_LIMIT_S)
            except TookTooLong:
                raise ValueError(f"The prediction took longer than {TIME_LIMIT_S:g} s. Send a smaller file.") from None
            if prediction.error:
                raise ValueError(prediction.error)
            whole = answer(prediction, predictor.provenance)
        if any(parameters.get(name) for name in _DETAILS):
            return whole
        if prediction.refused_because:
            raise ValueError(f"Refused: {prediction.refused_because}")
        return whole["predictions"][: _top_k(parameters)]

    def _predictor(self, parameters: dict[str, Any]) -> OnnxPredictor:
        chosen = str(parameters.get("operating_point", "youden")), str(parameters.get("on_suspect", "warn"))
        if chosen not in self._predictors:
            self._predictors[chosen] = OnnxPredictor(
                self._folder, operating_point=chosen[0], on_suspect=chosen[1]  # type: ignore[arg-type]
            )  # fmt: skip
        return self._predictors[chosen]


def _top_k(parameters: dict[str, Any]) -> int | None:
    top_k = parameters.get("top_k")
    if top_k is not None and not (isinstance(top_k, int) and top_k > 0):
        raise ValueError(f"`top_k` must be a number of at least 1; got {top_k!r}.")
    return top_k


def _content(inputs: Any) -> bytes:
    """The bytes of a file, whatever form they came in."""
    if isinstance(inputs, dict):
        inputs = next((inputs[name] for name in ("dicom", "image") if name in inputs), None)
    if isinstance(inputs, Image.Image):
        if inputs.width * inputs.height > MAX_PIXELS:
            raise ValueError(f"An image may have at most {MAX_PIXELS:,} pixels. Reduce it.")
        stream = io.BytesIO()
        inputs.save(stream, "PNG", compress_level=1)
        inputs = stream.getvalue()
    elif isinstance(inputs, str):
        if len(inputs) > 4 * MAX_BYTES // 3 + 4:
            raise ValueError(f"A file may have at most {MAX_BYTES:,} bytes. Send one radiograph.")
        try:
            inputs = base64.b64decode(inputs, validate=True)
        except binascii.Error:
            raise ValueError("`inputs` must be a file in base64; got another text.") from None
    if not isinstance(inputs, bytes):
        raise ValueError(
            '`inputs` must be a picture, or a DICOM, PNG or JPEG file in base64, such as {"dicom": "..."}.'
        )
    if len(inputs) > MAX_BYTES:
        raise ValueError(f"A file may have at most {MAX_BYTES:,} bytes. Send one radiograph.")
    return inputs
