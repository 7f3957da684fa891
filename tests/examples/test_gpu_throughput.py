"""The benchmark for a GPU measures its steps on a CPU with tiny models, with and without the options."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "gpu_throughput.py"


@pytest.mark.slow
def test_it_measures_every_job_before_and_after(tmp_path):
    command = [sys.executable, SCRIPT, "--tiny", "--peak-tflops", "1", "--output", tmp_path / "out.json"]
    command += ["--jobs", "teacher", "cache", "student", "views"]  # the training scripts take minutes on a CPU
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    rows = json.loads((tmp_path / "out.json").read_text())["results"]
    jobs = {job: [row for row in rows if row["job"] == job] for job in dict.fromkeys(row["job"] for row in rows)}
    assert list(jobs) == ["teacher", "cache", "student", "views"]
    assert all(row["images_per_s"] > 0 for row in rows)
    assert all(0 < row["share_of_peak"] < 1 for row in jobs["teacher"])


@pytest.mark.slow
def test_what_would_begin_too_late_is_left_out_and_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import gpu_throughput

    output = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--tiny", "--minutes", "0", "--output", str(output)])
    assert gpu_throughput.main() == 1
    assert {row["error"] for row in json.loads(output.read_text())["results"]} == {"left out: no time"}
