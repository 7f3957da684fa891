"""A small model and drawings of chests, shared by the tests of this folder."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import tiny_model

from mlcak_hf import MLCAKImageProcessor
from mlcak_hf.phantoms.writer import write_phantoms
from mlcak_hf.prediction.predictor import RadiographPredictor


@pytest.fixture(scope="session")
def predictor() -> RadiographPredictor:
    model = tiny_model("vit", local_labels=["Edema", "Nodule/Mass"])
    size = model.config.image_size
    return RadiographPredictor(model, MLCAKImageProcessor(size={"height": size, "width": size}), device="cpu")


@pytest.fixture
def exported(predictor: RadiographPredictor, tmp_path: Path) -> Path:
    """The model as ONNX files; the folder that it was exported from is `model` beside them."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is missing, so that NO EXPORTED MODEL IS SERVED: make test-serving")
    from mlcak_hf.deployment.export.onnx_folder import export_onnx

    predictor.model.save_pretrained(tmp_path / "model")
    predictor.processor.save_pretrained(tmp_path / "model")
    export_onnx(tmp_path / "model", tmp_path / "onnx")
    return tmp_path / "onnx"


@pytest.fixture(scope="session")
def chests(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six DICOM files."""
    root = write_phantoms(tmp_path_factory.mktemp("phantoms") / "data", num_train=1, num_test=6, size_px=128, seed=5)
    return sorted(Path(root.output_dir, "test").iterdir())


@pytest.fixture
def arrive(tmp_path: Path, chests: list[Path]) -> Callable[..., Path]:
    """Copy one of the files into the folder `in`, and return the copy."""
    (tmp_path / "in").mkdir()

    def copy(name: str, number: int = 0) -> Path:
        target = tmp_path / "in" / name
        target.parent.mkdir(exist_ok=True)
        return Path(shutil.copy(chests[number], target))

    return copy


@pytest.fixture
def start_command(tmp_path: Path):
    """Run `mlcak ARGUMENTS` in a process that can be killed; standard error goes to the file `errors`."""
    started = []

    def run(arguments: list[object]) -> None:
        from mlcak_hf.cli.main import main

        handle = os.open(tmp_path / "errors", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        sys.argv = ["mlcak", *map(str, arguments)]
        main()

    def start(*arguments: object):
        # Forked, so that torch is not imported again.
        started.append(multiprocessing.get_context("fork").Process(target=run, args=(arguments,)))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()
