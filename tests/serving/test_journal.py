"""The journal and the table of results: complete lines only, one process, and nothing lost on a full disk."""

from __future__ import annotations

import csv
import errno
import json
import os
from copy import copy
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from mlcak_hf.errors import DeploymentError, MLCAKError
from mlcak_hf.prediction.journal import Entry, Journal
from mlcak_hf.prediction.predictor import RadiographPredictor
from mlcak_hf.prediction.reading import Prediction
from mlcak_hf.prediction.tables import write_predictions
from mlcak_hf.serving.results import Results

MODEL = {"model": "m", "--operating-point": "youden", "--value-range": (0, 4095)}


def disk_with(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """Let `os.write` behave like a disk with so many bytes free."""
    write, left = os.write, [free]

    def limited(file: int, data: memoryview) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = min(left[0], len(data))
        left[0] -= count
        return write(file, data[:count])

    monkeypatch.setattr(os, "write", limited)


def test_what_was_added_is_there_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "j", MODEL)
    journal.add([Entry("a", {"file": "a", "score": 0.5}), Entry("b", {"file": "b\udcff"})])
    journal.close()
    again = Journal(tmp_path / "new" / "j", MODEL)
    assert "a" in again
    assert "c" not in again
    assert list(again.rows()) == [{"file": "a", "score": 0.5}, {"file": "b\udcff"}]
    again.close()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_a_kill_cut_off_does_not_count(tmp_path: Path, cut: int) -> None:
    journal = Journal(tmp_path / "j", MODEL)
    journal.add([Entry("a", {"n": 1})])
    journal.add([Entry("b", {"n": 2})])
    journal.close()
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole[:-cut])
    again = Journal(tmp_path / "j", MODEL)
    assert ("a" in again, "b" in again) == (True, False)
    again.add([Entry("b", {"n": 2})])
    again.close()
    assert (tmp_path / "j").read_bytes() == whole


def test_two_processes_models_or_options_cannot_share_a_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", MODEL)
    with pytest.raises(DeploymentError, match="Another process is writing"):
        Journal(tmp_path / "j", MODEL)
    journal.close()
    with pytest.raises(DeploymentError, match=r"a run with another --operating-point, model\. Use the same model"):
        Journal(tmp_path / "j", MODEL | {"model": "other", "--operating-point": "specificity"})
    (tmp_path / "k").write_text("something else\n")
    with pytest.raises(DeploymentError, match="must hold the rows of earlier predictions, but cannot be read"):
        Journal(tmp_path / "k", MODEL)
    Journal(tmp_path / "j", MODEL).close()


def test_a_full_disk_is_one_sentence_and_leaves_only_complete_lines(tmp_path: Path, monkeypatch) -> None:
    journal = Journal(tmp_path / "j", MODEL)
    journal.add([Entry("a", {"n": 1})])
    before = (tmp_path / "j").read_bytes()
    with monkeypatch.context() as patch:
        disk_with(patch, 10)
        with pytest.raises(DeploymentError, match=r"The disk of .* is full\. Free some space"):
            journal.add([Entry("b", {"n": 2})])
    assert (tmp_path / "j").read_bytes() == before
    assert "b" not in journal
    journal.add([Entry("b", {"n": 2})])
    assert [row["n"] for row in journal.rows()] == [1, 2]
    journal.close()


def read_table(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return pyarrow.parquet.read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_table_is_rebuilt_from_its_journal(
    tmp_path: Path, predictor: RadiographPredictor, chests: list[Path], suffix: str
) -> None:
    predictions = predictor.predict([*chests, tmp_path / "missing.png"])
    output = tmp_path / f"results.{suffix}"
    results = Results(output, predictor)
    for prediction in reversed(predictions):  # the unreadable one, which has no labels, comes first
        results.add([(prediction.file.name, prediction, {})])
    results.close()
    whole = read_table(output)
    assert [row["image_id"] for row in whole] == [prediction.image_id for prediction in reversed(predictions)]
    output.write_bytes(output.read_bytes()[:-30])
    Results(output, predictor).close()
    assert read_table(output) == whole


def test_results_of_another_operating_point_are_refused(tmp_path: Path, predictor: RadiographPredictor) -> None:
    Results(tmp_path / "results.csv", predictor).close()
    changed = copy(predictor)
    changed.safeguards = replace(predictor.safeguards, rule="specificity")
    with pytest.raises(DeploymentError, match=r"a run with another --operating-point\."):
        Results(tmp_path / "results.csv", changed)
    Results(tmp_path / "results.csv", predictor).close()


def test_a_csv_of_results_has_the_columns_and_cells_of_mlcak_predict(tmp_path: Path, predictor, chests) -> None:
    predictions = predictor.predict(chests)
    write_predictions(predictions, output=tmp_path / "predict.csv", provenance=predictor.provenance)
    results = Results(tmp_path / "results.csv", predictor)
    results.add((str(prediction.file), prediction, {}) for prediction in predictions)
    results.close()
    assert (tmp_path / "results.csv").read_text() == (tmp_path / "predict.csv").read_text()


def test_a_table_that_is_not_ours_is_never_overwritten(tmp_path: Path, predictor: RadiographPredictor) -> None:
    (tmp_path / "work.csv").write_text("years of work")
    with pytest.raises(DeploymentError, match=r"its journal .* does not"):
        Results(tmp_path / "work.csv", predictor)
    assert (tmp_path / "work.csv").read_text() == "years of work"
    with pytest.raises(MLCAKError, match="suffix of the output"):
        Results(tmp_path / "results.txt", predictor)


def test_a_full_disk_under_the_table_loses_no_row(tmp_path: Path, predictor: RadiographPredictor, monkeypatch) -> None:
    results = Results(tmp_path / "results.csv", predictor)
    with monkeypatch.context() as patch:
        patch.setattr(Results, "_write_text", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(DeploymentError, match="is full"):
            results.add([("a", Prediction(Path("a.png"), error="damaged"), {})])
    results.close()
    assert [row["file"] for row in read_table(tmp_path / "results.csv")] == ["a.png"]
