"""Export to a Gradio app, as a folder that a Hugging Face Space or any computer with Python runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from ..phantoms.writer import write_phantoms
from ..prediction.onnx_metadata import MODEL_FILES
from ..prediction.onnx_predictor import OnnxPredictor
from ..pretrained import Source
from ..shipped import hub_configs_dir
from .export.deviation import draw_phantoms, grey_image
from .export.new_folder import new_folder
from .export.onnx_folder import export_onnx

_EXAMPLE_PX = 640


def export_space(source: Source, output: str | Path) -> None:
    """Write a Gradio app for a model.

    Args:
        source (`str` or `Path`):
            Folder, Hub id or name of a shipped checkpoint.
        output (`str` or `Path`):
            New or empty folder.

    Raises:
        [`DeploymentError`]: When the model cannot be exported to ONNX.
    """
    with TemporaryDirectory() as place:
        export_onnx(source, Path(place, "onnx"))
        build_space(Path(place, "onnx"), output)


def build_space(exported: str | Path, output: str | Path) -> None:
    """Write the Gradio app of a model that was exported to ONNX.

    Args:
        exported (`str` or `Path`):
            A folder that `mlcak export --to onnx` wrote.
        output (`str` or `Path`):
            New or empty folder.

    Raises:
        [`DeploymentError`]: When the folder is not empty or cannot be written.
    """
    exported, templates = Path(exported), hub_configs_dir() / "space"
    name = OnnxPredictor(exported).about.model
    with new_folder(output) as folder:
        for file in ("app.py", "style.css", "requirements.txt"):
            shutil.copyfile(templates / file, folder / file)
        card = (templates / "README.md").read_text(encoding="utf-8").replace("{{name}}", name)
        (folder / "README.md").write_text(card, encoding="utf-8")
        shutil.copyfile(exported / MODEL_FILES["float32"], folder / MODEL_FILES["float32"])
        shutil.copytree(exported / "mlcak_hf", folder / "mlcak_hf", ignore=shutil.ignore_patterns("__pycache__"))
        _draw_examples(folder / "examples")


def _draw_examples(folder: Path) -> None:
    """Drawings in two formats, and one that the app warns about."""
    folder.mkdir()
    with TemporaryDirectory() as place:
        write_phantoms(Path(place, "phantoms"), num_train=1, num_test=2, size_px=_EXAMPLE_PX)
        for number, file in enumerate(sorted(Path(place).glob("phantoms/test/*.dicom")), 1):
            shutil.copyfile(file, folder / f"phantom-{number}.dcm")
    drawing = grey_image(draw_phantoms(1)[0], _EXAMPLE_PX, _EXAMPLE_PX)
    drawing.save(folder / "phantom-3.png")
    drawing.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(folder / "phantom-upside-down.png")
