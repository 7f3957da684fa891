"""The archive example on a local Ray with two workers: killed, resumed, and equal to the predictor."""

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

from mlcak_hf import MLCAKImageProcessor, RadiographPredictor
from mlcak_hf.prediction.row_formats import flat_row, table_columns

pytest.importorskip("ray", reason="ray is missing, so that PREDICTION ON RAY IS NOT TESTED: make test-ray")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "archive" / "predict_on_ray.py"
FILES = 400


def start(folder: Path, log: Path, *options: str) -> subprocess.Popen:
    """Run the example in a process group of its own. Ray's token stays out of the home folder."""
    command = [sys.executable, str(SCRIPT), *(str(folder / name) for name in ("model", "in", "out"))]
    command += ["--actors", "2", "--files_per_part", "4", "--batch_size", "4", *options]
    environment = {**os.environ, "HOME": str(folder), "HF_HUB_OFFLINE": "1", "RAY_worker_niceness": "0"}
    with log.open("w") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)


@pytest.mark.timeout(900)
def test_a_killed_run_resumes_and_every_file_has_the_row_of_the_predictor(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    MLCAKImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "model")
    (tmp_path / "in").mkdir()
    for index in range(FILES):
        pixels = np.random.default_rng(index).integers(0, 256, (300, 280), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{index:03}.png")
    (tmp_path / "in" / "broken.dcm").write_text("not an image")

    killed = start(tmp_path, tmp_path / "log")
    while len(list((tmp_path / "out").glob("*.parquet"))) < 3 and killed.poll() is None:
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert 0 < len(list((tmp_path / "out").glob("*.parquet"))) < FILES / 4, (tmp_path / "log").read_text()
    resumed = start(tmp_path, tmp_path / "log")
    assert resumed.wait() == 0, (tmp_path / "log").read_text()
    first_line = (tmp_path / "log").read_text().splitlines()[0]
    to_predict, done = (int(word) for word in first_line.split() if word.isdigit())
    assert to_predict + done == FILES + 1
    assert done >= 4

    rows = parquet.read_table(tmp_path / "out").drop_columns(["settings"]).sort_by("file").to_pylist()
    predictor = RadiographPredictor.from_pretrained(tmp_path / "model", device="cpu")
    empty = dict.fromkeys(table_columns(predictor))
    for row, prediction in zip(rows, predictor.predict(sorted((tmp_path / "in").iterdir())), strict=True):
        expected = empty | flat_row(prediction, predictor.provenance)
        for name, value in expected.items():
            assert row[name] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value), name
    assert [row["error"] is not None for row in rows] == [False] * FILES + [True]
    refused = start(tmp_path, tmp_path / "log", "--operating_point", "specificity")
    assert refused.wait() == 1
    assert "with other options" in (tmp_path / "log").read_text()
