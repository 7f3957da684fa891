"""`mlcak watch` and `mlcak serve` say in one sentence what is missing or does not fit together."""

from __future__ import annotations

import builtins
import json

import pytest

from mlcak_hf.cli.serve import _is_loopback


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--output", "r.csv"], "Name its --dicom-port"),
        (["--dicom-port", "0"], "Name the results of the DICOM node"),
        (["--dicom-port", "0", "--output", "r.csv", "--send-to", "A@b:1"], "Name their folder (--reports FOLDER)"),
    ],
)
def test_options_of_the_dicom_node_belong_together(mlcak, options: list[str], sentence: str) -> None:
    code, _, errors = mlcak("serve", "pneumonia-28", *options)
    assert code == 2
    assert sentence in errors


def test_a_missing_extra_says_what_to_install(mlcak, monkeypatch) -> None:
    usual = builtins.__import__

    def without_fastapi(name: str, *rest: object, **options: object):
        if name == "fastapi":
            raise ImportError("No module named 'fastapi'", name="fastapi")
        return usual(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_fastapi)
    code, _, errors = mlcak("serve", "pneumonia-28")
    assert code == 2
    assert "pip install 'mlcak-hf[serve]'" in errors


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.5", False), ("pacs", False)],
)
def test_only_loopback_addresses_need_no_warning(host: str, inside: bool) -> None:
    assert _is_loopback(host) is inside


def test_watching_no_folder_and_an_output_of_another_kind_are_errors(mlcak, tmp_path, predictor, monkeypatch) -> None:
    from mlcak_hf.cli import serve

    monkeypatch.setattr(serve, "load_any_predictor", lambda *_, **__: predictor)
    code, _, errors = mlcak("watch", "m", tmp_path / "none", "--output", tmp_path / "r.csv")
    assert code == 2
    assert "The folder to watch must exist" in errors
    code, _, errors = mlcak("watch", "m", tmp_path, "--output", tmp_path / "r.xlsx")
    assert code == 2
    assert "must be .csv, .jsonl or .parquet; got r.xlsx" in errors


def test_watch_once_in_this_process(mlcak, tmp_path, predictor, arrive, monkeypatch) -> None:
    from mlcak_hf.cli import serve

    monkeypatch.setattr(serve, "load_any_predictor", lambda *_, **__: predictor)
    arrive("DOE^JANE.dcm")
    output = tmp_path / "r.jsonl"
    code, _, errors = mlcak("watch", "m", tmp_path / "in", "--output", output, "--settle", 0, "--once")
    assert code == 0, errors
    assert "1 predicted, 0 refused, 0 unreadable" in errors
    assert "DOE" not in errors
    assert "DOE^JANE" in output.read_text()


def test_watch_predicts_with_an_exported_model_and_does_not_mix_runtimes(
    mlcak, tmp_path, predictor, arrive, exported
) -> None:
    (expected,) = predictor.predict([arrive("a.dcm")])
    options = (tmp_path / "in", "--output", tmp_path / "r.jsonl", "--settle", 0, "--once")
    code, _, errors = mlcak("watch", exported, *options)
    assert code == 0, errors
    row = json.loads((tmp_path / "r.jsonl").read_text())
    assert row["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    code, _, errors = mlcak("watch", tmp_path / "model", *options)
    assert code == 2
    assert "a run with another model" in errors
