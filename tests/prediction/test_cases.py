"""Files that were once read wrongly, and every public DICOM file at hand: read, predicted and inspected as expected."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from tiny_models import tiny_model

from mlcak_hf import MLCAKError, MLCAKImageProcessor, RadiographPredictor
from mlcak_hf.radiographs.file_search import search_radiographs
from mlcak_hf.radiographs.read import read_radiograph, read_with_facts

ENTRIES = {
    "notes.dcm": "it is a text file",
    "empty.png": "The file is empty",
    "colour photo.jpg": None,
    "noise.png": None,
    "black.png": "no usable contrast",
    "tiny.png": "no usable contrast",
    "huge.png": "at most 60,000,000 pixels",
}


@pytest.fixture(scope="module")
def cases(shared_data: Path, tmp_path_factory) -> Path:
    script = shared_data.parent / "cases" / "make_cases.py"
    if not script.is_file():
        pytest.skip(f"{script} is missing, so that NO CASE OF A FORMER FAULT IS TESTED")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def expected(cases: Path) -> dict[str, dict[str, object]]:
    return {name: case for name, case in json.loads((cases / "expected.json").read_text()).items() if "." in name}


@pytest.fixture(scope="module")
def predictor() -> RadiographPredictor:
    model = tiny_model("vit")
    size = model.config.image_size
    return RadiographPredictor(model, MLCAKImageProcessor(size={"height": size, "width": size}), device="cpu")


def test_every_case_is_read_or_refused_as_expected(cases, expected) -> None:
    seen = 0
    for name, case in expected.items():
        if "read" not in case or case["read"] == "either":
            continue
        seen += 1
        try:
            found = {"read": "ok", "max": float(read_radiograph(cases / name).max())}
        except MLCAKError:
            found = {"read": "refused"}
        assert found["read"] == case["read"], name
        assert found.get("max") == pytest.approx(case["max"], abs=0.01) if "max" in case else True, name
    assert seen >= 5


def test_every_case_is_predicted_or_refused_as_expected(cases, expected, predictor) -> None:
    named = {name: case["predict"] for name, case in expected.items() if "predict" in case}
    for prediction in predictor.predict([cases / name for name in named]):
        assert {"predicted": "row"}.get(prediction.outcome, "refused") == named[prediction.file.name]
        assert prediction.warning is None, prediction.file.name
    assert len(named) >= 3


def test_a_case_without_contrast_is_marked_for_inspect_and_prepare(cases, expected) -> None:
    for name, case in expected.items():
        if case.get("predict") == "refused":
            facts = read_with_facts(cases / name, 64)
            assert facts.underfilled or facts.no_contrast, name


def test_every_entry_of_a_mixed_folder_is_a_row_or_counted_with_its_reason(cases, predictor) -> None:
    search = search_radiographs([cases / "mixed"])
    assert search.skipped == {".pdf": 1, ".bmp": 1}
    predictions = {prediction.file.name: prediction for prediction in predictor.predict(search.files)}
    assert predictions.keys() == ENTRIES.keys()
    for name, reason in ENTRIES.items():
        given = predictions[name].error or predictions[name].refused_because
        assert reason in given if reason else given is None, name
    assert "in colour" in predictions["colour photo.jpg"].warning
    assert predictions["noise.png"].warning == "noise"


def test_no_public_dicom_file_raises_another_error_or_reads_as_a_silent_blank(shared_data: Path) -> None:
    """pydicom's own test files, and one in ten of the shared radiographs, at their size and at 28 px."""
    own = sorted(path for path in Path(pydicom.data.__file__).parent.rglob("*") if path.is_file())
    shared = sorted((shared_data / "nih-in-vindr-layout").rglob("*.dicom"))[::10]
    read = 0
    for path in (*own, *shared):
        for size_px in (None, 28):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    facts = read_with_facts(path, size_px)
            except MLCAKError:
                continue
            read += 1
            assert np.isfinite(facts.pixels).all(), path
            assert facts.contrast_problem is not None or np.ptp(facts.pixels) > 1 / 64, path
    assert read > 150
