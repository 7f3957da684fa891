"""The benchmark of a distillation step runs to its end and measures every side (with tiny models, as a whole)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "distillation_step.py"


@pytest.mark.slow
def test_it_measures_every_side(tmp_path):
    command = [sys.executable, SCRIPT, "--students", "student-tiny-28", "--teacher", "teacher-tiny-224"]
    command += ["--rounds", 2, "--online_rounds", 1, "--build_rounds", 1, "--build_images", 2, "--batch", 4]
    command += ["--threads", 1, "--memory_model", "none", "--output", tmp_path / "out.json"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "0.61 GB for 15,000 images x 8 views (computed)" in ran.stdout
    found = json.loads((tmp_path / "out.json").read_text())
    steps = found["steps"]["student-tiny-28"]
    assert {side: len(times) for side, times in steps.items()} == {"alone": 2, "cached": 2, "online": 1}
    assert all(time > 0 for times in (*steps.values(), *found["building"].values()) for time in times)
