"""Choose what a model runs on: PyTorch, or onnxruntime for an exported one."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any, Literal

from ..errors import MLCAKError

if TYPE_CHECKING:
    from ..prediction.file_predictor import FilePredictor

Runtime = Literal["torch", "onnx"]


def load_any_predictor(
    model: str, runtime: Runtime | None = None, device: str | None = None, threads: int = 1, **options: Any
) -> FilePredictor:
    """Load the predictor that a model is made for, PyTorch or onnxruntime.

    Args:
        model (`str`):
            Folder, Hub id or name of a trained model, or a file or folder that `mlcak export --to onnx` wrote.
        runtime (`str`, *optional*):
            `"torch"` or `"onnx"`. By default what the model is made for.
        device (`str`, *optional*):
            As in [`RadiographPredictor`]; onnxruntime runs on the CPU.
        threads (`int`, *optional*, defaults to 1):
            Threads of the model on the CPU.
        options: `value_range`, `voi`, `on_suspect` and `operating_point`.

    Raises:
        [`MLCAKError`]: When the model is not made for the runtime, or the runtime is not installed.
    """
    from ..prediction.onnx_predictor import OnnxPredictor, find_onnx_file

    file = find_onnx_file(model)
    if runtime == "onnx" or (runtime is None and file is not None):
        if device not in (None, "cpu"):
            raise MLCAKError(f"An ONNX model runs on the CPU; got --device {device}. Leave it out.")
        return OnnxPredictor(model, threads=threads, **options)
    if file is not None:
        raise MLCAKError(f"{model} is an exported ONNX model and cannot run on torch. Leave --runtime out.")
    if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        raise MLCAKError(
            f"The model {model} needs {' and '.join(missing)}, which are not installed. Install all of mlcak-hf, or "
            "name an ONNX file that `mlcak export` wrote on another machine."
        )
    import torch
    from transformers.utils import logging

    from ..prediction.predictor import RadiographPredictor

    torch.set_num_threads(threads)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return RadiographPredictor.from_pretrained(model, device=device, **options)
