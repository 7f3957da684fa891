"""Files that were once read wrongly, and every public DICOM file at hand: read, predicted, inspected and prepared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from datasets import load_dataset
from saved_models import save_with_card
from tiny_models import tiny_model
from vindr_factories import KAGGLE_HEADER, kaggle_row, write_table

from mlcak_hf import MLCAKError, MLCAKImageProcessor, RadiographPredictor
from mlcak_hf.cli.main import main
from mlcak_hf.data.columns import DatasetColumns, global_labels
from mlcak_hf.data.sources import open_dataset
from mlcak_hf.labels_csv.labels_source import LabelsOptions, LabelsSource
from mlcak_hf.preparation.prepare import prepare_dataset
from mlcak_hf.radiographs.file_search import search_radiographs
from mlcak_hf.radiographs.read import read_radiograph, read_with_facts
from mlcak_hf.vindr_cxr.inspection.inspect import inspect_vindr_cxr
from mlcak_hf.vindr_cxr.vindr_source import prepare_vindr_cxr

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


@pytest.fixture(scope="module")
def as_kaggle(cases, expected, tmp_path_factory) -> Path:
    """The DICOM files of the cases in a layout that `inspect` and `prepare` know."""
    root = tmp_path_factory.mktemp("kaggle")
    (root / "train").mkdir()
    names = [name for name in expected if name.endswith(".dcm")]
    for name in names:
        shutil.copy(cases / name, root / "train" / name)
    write_table(root / "train.csv", KAGGLE_HEADER, [kaggle_row(Path(name).stem, "R1") for name in names])
    return root


def listed_as(case: dict[str, object]) -> str:
    """What inspect and prepare must say about a case: it cannot be read, it has no usable contrast, or nothing."""
    return "unreadable" if case["read"] == "refused" else "no contrast" if case.get("predict") == "refused" else ""


def test_every_case_is_listed_by_inspect_as_expected(as_kaggle, expected) -> None:
    report = inspect_vindr_cxr(as_kaggle)
    said = {Path(name).stem: "" for name in expected if name.endswith(".dcm")}
    names = {"unreadable": "unreadable", "no_contrast": "no contrast", "underfilled_range": "no contrast"}
    for problem in report.problems:
        if problem.kind in names:  # others are right as well: some cases have the same pixels
            said |= dict.fromkeys((Path(file).stem for file in problem.files), names[problem.kind])
    assert said == {Path(name).stem: listed_as(expected[name]) for name in expected if name.endswith(".dcm")}


def test_every_case_is_prepared_or_listed_as_expected(as_kaggle, expected, tmp_path) -> None:
    choices = {"size_px": 64, "validation_fraction": 0, "test_fraction": 0}
    with pytest.raises(MLCAKError, match=r"8_bit_jpeg_under_12_bit_header\.dcm: .*--on-error skip"):
        prepare_vindr_cxr(as_kaggle, tmp_path / "out", **choices)
    report = prepare_vindr_cxr(as_kaggle, tmp_path / "out", on_error="skip", **choices)
    said = {Path(name).stem: "" for name in expected if name.endswith(".dcm")}
    said |= {image.image_id: "unreadable" for image in report.skipped}
    for kind in ("no_contrast", "underfilled_range"):
        said |= dict.fromkeys(report.suspect_images[kind], "no contrast")
    assert said == {Path(name).stem: listed_as(expected[name]) for name in expected if name.endswith(".dcm")}
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    brightest = {row["image_id"]: np.asarray(row["image"]).max() / 255 for row in rows}
    for name, case in expected.items():
        if "max" in case:
            # The brightest corner of a ramp loses a little in the area average.
            assert brightest[Path(name).stem] == pytest.approx(case["max"], abs=0.03), name


def test_a_text_column_of_the_cases_makes_the_classes(cases, tmp_path) -> None:
    rows = open_dataset(str(cases / "labels.csv"))["train"]
    assert global_labels(rows, DatasetColumns(findings=None)) == ("name", ["normal", "pneumonia"])
    source = LabelsSource(
        cases / "mixed",
        LabelsOptions(
            labels=cases / "labels.csv", image_column="image", on_error="skip", validation_fraction=0, test_fraction=0
        ),
    )
    report = prepare_dataset(source, tmp_path / "out")
    assert source.classes == ("normal", "pneumonia")
    assert report.suspect_images["no_contrast"] == ["black"]
    prepared = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert dict(zip(prepared["image_id"], prepared["label"], strict=True)) == {"noise": 0, "black": 1}


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


def test_the_command_counts_every_entry_of_a_mixed_folder(cases, predictor, tmp_path, monkeypatch, capsys) -> None:
    save_with_card(predictor.model, predictor.processor, tmp_path / "model")
    monkeypatch.setattr(sys, "argv", ["mlcak", "predict", str(tmp_path / "model"), str(cases / "mixed")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "7 found: 2 predicted, 2 refused, 3 unreadable. Skipped: 1 .bmp, 1 .pdf." in said


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
