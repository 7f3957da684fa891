"""A watched folder: each file once, when it is complete, whatever happens in between."""

from __future__ import annotations

import csv
import os
import signal
import time
from pathlib import Path
from threading import Event

import pyarrow.parquet
import pytest
from saved_models import save_with_card

from mlcak_hf.errors import DeploymentError
from mlcak_hf.serving.folder_watch import FolderWatch, watch_folder
from mlcak_hf.serving.results import Results


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def results(tmp_path: Path, predictor):
    results = Results(tmp_path / "results.csv", predictor)
    yield results
    results.close()


def files(tmp_path: Path) -> list[str]:
    return [Path(row["file"]).name for row in rows(tmp_path / "results.csv")]


def test_each_file_is_predicted_once_also_after_a_restart(tmp_path: Path, predictor, arrive) -> None:
    arrive("a.dcm")
    (tmp_path / "in" / "notes.dcm").write_text("not a radiograph")
    for expected in (["a.dcm", "notes.dcm"], ["a.dcm", "notes.dcm", "b.dcm"]):
        results = Results(tmp_path / "results.csv", predictor)
        watch_folder(FolderWatch(tmp_path / "in", predictor, results, settle_s=0), results, Event(), 0.01, once=True)
        results.close()
        assert files(tmp_path) == expected
        arrive("b.dcm", 1)
    assert "it is a text file" in rows(tmp_path / "results.csv")[1]["error"]


def test_a_file_that_grows_waits_until_it_is_complete(tmp_path: Path, predictor, results, arrive, chests) -> None:
    watch = FolderWatch(tmp_path / "in", predictor, results, settle_s=0.2)
    whole = chests[0].read_bytes()
    with (tmp_path / "in" / "slow.dcm").open("wb") as stream:
        for start in range(0, len(whole), len(whole) // 4 + 1):
            stream.write(whole[start : start + len(whole) // 4 + 1])
            stream.flush()
            assert watch.predict_new(Event()) == []
            time.sleep(0.1)
    watch_folder(watch, results, Event(), 0.05, once=True)
    assert [(row["error"], row["warning"] != "damaged") for row in rows(tmp_path / "results.csv")] == [("", True)]


def test_a_changed_file_is_predicted_again_and_a_named_unfinished_one_not(tmp_path, predictor, results, arrive) -> None:
    watch = FolderWatch(tmp_path / "in", predictor, results, settle_s=0)
    arrive("a.dcm")
    arrive("b.dcm.part")
    arrive(".hidden.dcm")
    assert [prediction.file.name for prediction in watch.predict_new(Event())] == ["a.dcm"]
    assert watch.predict_new(Event()) == []
    arrive("a.dcm", 1)
    (tmp_path / "in" / "b.dcm.part").rename(tmp_path / "in" / "b.dcm")
    assert [prediction.file.name for prediction in watch.predict_new(Event())] == ["a.dcm", "b.dcm"]


def test_a_file_that_changes_while_it_is_read_is_left_for_later(
    tmp_path, predictor, results, arrive, monkeypatch
) -> None:
    file, read = arrive("a.dcm"), type(predictor).predict

    def predict_and_change(self, batch, **options):
        predictions = read(self, batch, **options)
        file.write_bytes(file.read_bytes() + b"\0\0")
        return predictions

    watch = FolderWatch(tmp_path / "in", predictor, results, settle_s=0)
    with monkeypatch.context() as patch:
        patch.setattr(type(predictor), "predict", predict_and_change)
        assert watch.predict_new(Event()) == []
    assert len(watch.predict_new(Event())) == 1
    assert files(tmp_path) == ["a.dcm"]


def test_a_folder_that_goes_away_is_waited_for_and_one_that_never_was_is_an_error(tmp_path, predictor, results) -> None:
    (tmp_path / "in").mkdir()
    watch = FolderWatch(tmp_path / "in", predictor, results, settle_s=0)
    (tmp_path / "in").rmdir()
    assert watch.predict_new(Event()) == []
    with pytest.raises(DeploymentError, match="The folder to watch must exist"):
        FolderWatch(tmp_path / "never", predictor, results)


@pytest.mark.slow
def test_killed_watches_leave_one_row_for_each_file(tmp_path: Path, predictor, arrive, start_command) -> None:
    """Killed three times while it works on 40 files, then finished."""
    folder = save_with_card(predictor.model, predictor.processor, tmp_path / "model")
    names = [arrive(f"{number:02}.dcm", number % 6).name for number in range(40)]
    command = [folder, tmp_path / "in", "--output", tmp_path / "results.csv"]
    command += ["--settle", 0, "--once", "--batch-size", 1]
    journal = tmp_path / "results.csv.journal"
    for lines in (5, 12, 25):
        process = start_command("watch", *command)
        while process.is_alive() and not (journal.exists() and journal.read_bytes().count(b"\n") > lines):
            time.sleep(0.005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    done = start_command("watch", *command)
    done.join(200)
    assert done.exitcode == 0
    assert sorted(files(tmp_path)) == names


@pytest.mark.slow
def test_ctrl_c_ends_a_watch_cleanly(tmp_path: Path, predictor, arrive, start_command) -> None:
    folder = save_with_card(predictor.model, predictor.processor, tmp_path / "model")
    arrive("DOE^JANE.dcm")
    process = start_command("watch", folder, tmp_path / "in", "--output", tmp_path / "results.parquet", "--settle", 0)
    errors = tmp_path / "errors"
    while process.is_alive() and not (errors.exists() and "1 predicted" in errors.read_text()):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    process.join(100)
    assert process.exitcode == 0
    assert "Stopped. 1 predicted, 0 refused, 0 unreadable." in errors.read_text()
    assert "DOE" not in errors.read_text()
    assert pyarrow.parquet.read_table(tmp_path / "results.parquet").column("image_id").to_pylist() == ["DOE^JANE"]
