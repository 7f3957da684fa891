"""A table of predictions that is written as it goes: killed, resumed, refused, and the same in every format."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from tiny_models import tiny_model

from mlcak_hf import MLCAKError, MLCAKImageProcessor, RadiographPredictor
from mlcak_hf.prediction.journal import UnfinishedRun
from mlcak_hf.prediction.reading import Prediction
from mlcak_hf.prediction.tables import write_predictions


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    MLCAKImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory) -> Path:
    """Five pictures of different sizes, and a file that cannot be read, first."""
    folder = tmp_path_factory.mktemp("radiographs")
    (folder / "a.dcm").write_text("not an image")
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (70 + index, 80), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def rows_of(file: Path) -> list[dict]:
    if file.suffix == ".csv":
        with file.open(newline="") as stream:
            return [{name: text or None for name, text in row.items()} for row in csv.DictReader(stream)]
    if file.suffix == ".parquet":
        return parquet.read_table(file).to_pylist()
    text = file.read_text()
    return json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def test_every_format_holds_the_same_rows(mlcak, model, radiographs, tmp_path):
    tables = {}
    for suffix in (".csv", ".json", ".jsonl", ".parquet"):
        code, _, err = mlcak("predict", model, radiographs, "--output", tmp_path / f"table{suffix}")
        assert code == 1, err  # one file is broken
        tables[suffix] = rows_of(tmp_path / f"table{suffix}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"table{suffix}" for suffix in sorted(tables)]
    assert tables[".json"] == tables[".jsonl"]
    for nested, flat, text in zip(tables[".jsonl"], tables[".parquet"], tables[".csv"], strict=True):
        assert flat.keys() == text.keys()
        assert (nested["file"], nested["error"]) == (flat["file"], flat["error"]) == (text["file"], text["error"])
        for name, value in nested["probabilities"].items():
            assert flat[f"global/{name}"] == value
            assert float(text[f"global/{name}"]) == pytest.approx(value, rel=1e-5)
        if nested["error"]:
            assert flat["global/Normal"] is None
    assert sum(row["error"] is None for row in tables[".jsonl"]) == 5


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("done", [1, 3])
def test_a_killed_run_resumes_and_predicts_no_file_twice(
    mlcak, model, radiographs, tmp_path, monkeypatch, suffix, done
):
    whole, resumed = tmp_path / f"whole{suffix}", tmp_path / f"resumed{suffix}"
    command = ("predict", model, radiographs, "--batch-size", "1", "--output")
    mlcak(*command, whole)
    add = UnfinishedRun.add

    def killed(run, prediction):
        if len(run.file.read_bytes().splitlines()) == 1 + done:
            with run.file.open("ab") as stream:
                stream.write(b'{"key": "torn in the mid')  # as a kill may leave it
            raise SystemExit("killed")
        add(run, prediction)

    with monkeypatch.context() as patch:
        patch.setattr(UnfinishedRun, "add", killed)
        mlcak(*command, resumed)
    assert not resumed.exists()
    seen = []
    stream = RadiographPredictor.stream
    monkeypatch.setattr(
        RadiographPredictor,
        "stream",
        lambda self, files, **options: stream(self, seen.extend(files) or files, **options),
    )
    code, _, err = mlcak(*command, resumed)
    assert code == 1, err
    assert f"Resuming: {done} files are done" in err
    assert "6 found: 5 predicted, 0 refused, 1 unreadable." in err
    assert len(seen) == 6 - done
    assert resumed.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([whole.name, resumed.name])


def test_another_option_or_model_is_refused_and_changes_nothing(mlcak, model, radiographs, tmp_path):
    output = tmp_path / "table.csv"
    with UnfinishedRun(output, {"model": "none", "--voi": "dicom"}) as run:
        run.add(Prediction(radiographs / "a.dcm", error="not read"))
    before = run.file.read_bytes()
    with pytest.raises(
        MLCAKError, match=r"another --voi\. Use the same model and options, name another output, or delete it"
    ):
        UnfinishedRun(output, {"model": "none", "--voi": "none"})
    code, _, err = mlcak("predict", model, radiographs, "--output", output)
    assert code == 2
    assert "model. Use the same model and options" in " ".join(err.split())
    assert run.file.read_bytes() == before
    assert not output.exists()


def test_heatmaps_of_a_resumed_run_do_not_overwrite_earlier_ones(mlcak, model, tmp_path, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        pixels = np.random.default_rng(ord(folder)).integers(0, 256, (70, 80), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / folder / "same.png")
    command = ("predict", model, tmp_path / "in", "--batch-size", "1", "--heatmaps", tmp_path / "maps", "--output")
    add = UnfinishedRun.add

    def stop_after_one(run, prediction):
        add(run, prediction)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(UnfinishedRun, "add", stop_after_one)
        code, _, err = mlcak(*command, tmp_path / "t.jsonl")
    assert code == 130
    assert "The same command resumes." in err
    assert mlcak(*command, tmp_path / "t.jsonl")[0] == 0
    assert [Path(row["heatmap"]).name for row in rows_of(tmp_path / "t.jsonl")] == ["same.png", "same-2.png"]


def test_a_damaged_file_and_a_second_process_are_one_sentence(tmp_path):
    output = tmp_path / "t.csv"
    with UnfinishedRun(output, {"model": 1}), pytest.raises(MLCAKError, match="Another process is writing"):
        UnfinishedRun(output, {"model": 1})
    (tmp_path / "t.csv.unfinished").write_text("something else\n")
    with pytest.raises(MLCAKError, match=r"must hold the rows of earlier predictions.*delete it to start again"):
        UnfinishedRun(output, {"model": 1})


def test_names_that_are_no_text_survive_every_format(tmp_path):
    name = os.fsdecode(b"\xe9.png")
    for suffix in (".csv", ".json", ".jsonl", ".parquet"):
        write_predictions([Prediction(Path(name), {"Normal": 0.5})], output=tmp_path / f"t{suffix}")
        assert "udce9.png" in ascii(rows_of(tmp_path / f"t{suffix}")[0]["file"])
    with UnfinishedRun(tmp_path / "t.csv", {}) as run:
        run.add(Prediction(Path(name)))
    with UnfinishedRun(tmp_path / "t.csv", {}) as run:
        assert run.done == {name}


def test_parquet_needs_a_file_and_pyarrow(mlcak, model, radiographs, tmp_path, monkeypatch):
    assert "Parquet is not text and needs a file" in mlcak("predict", model, radiographs, "--format", "parquet")[2]
    monkeypatch.setattr("mlcak_hf.prediction.tables.importlib.util.find_spec", lambda name: None)
    assert "pip install pyarrow" in mlcak("predict", model, radiographs, "--output", tmp_path / "t.parquet")[2]


@pytest.mark.slow
def test_a_process_killed_without_warning_loses_at_most_a_batch(model, tmp_path):
    for index in range(60):
        pixels = np.random.default_rng(index).integers(0, 256, (600, 600), dtype=np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{index:02}.png")
    output, unfinished = tmp_path / "t.jsonl", tmp_path / "t.jsonl.unfinished"
    command = [sys.executable, "-m", "mlcak_hf", "predict", model, tmp_path / "in", "--batch-size", "4"]
    command = [*map(str, command), "--output", str(output)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not unfinished.exists() or unfinished.read_bytes().count(b"\n") < 9):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = unfinished.read_bytes().count(b"\n") - 1
    assert 8 <= kept < 60
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"Resuming: {kept} files are done" in done.stderr
    assert [Path(row["file"]).name for row in rows_of(output)] == [f"{index:02}.png" for index in range(60)]
