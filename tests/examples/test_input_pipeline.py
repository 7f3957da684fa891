"""The benchmark of the input in small: it runs, its pixels are the definition's, and its tables have their rows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "input_pipeline.py"


@pytest.mark.slow
def test_views_are_within_a_hundredth_of_a_grey_level_of_the_definition(tmp_path):
    command = [sys.executable, SCRIPT, "--images", 12, "--rounds", 1, "--steps", 4, "--model", "student-tiny-28"]
    command += ["--batch_size", 4, "--growth", 400, 600, "--growth_px", 32]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr[-3000:]
    deviations = [float(value) for value in re.findall(r"([\d.]+)/255", ran.stdout)]
    assert len(deviations) == 3
    assert max(deviations) < 0.01, "the goal is 2"
    assert ran.stdout.count("of the step is waiting for data") == 2
    assert re.search(r"^ +600 ", ran.stdout, re.MULTILINE)
