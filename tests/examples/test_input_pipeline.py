"""The benchmark of the input in small: it runs, its pixels are the definition's, and its tables have their rows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "input_pipeline.py"


@pytest.mark.slow
def test_students_views_are_within_two_grey_levels_of_the_definition(tmp_path):
    command = [sys.executable, SCRIPT, "--images", 12, "--compared", 4, "--rounds", 1, "--steps", 4]
    command += ["--model", "student-tiny-28", "--batch_size", 4, "--growth", 400, 600, "--growth_px", 32]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr[-3000:]
    (line,) = re.findall(r"^ *here  .*$", ran.stdout, re.MULTILINE)
    students = [float(value) for value in re.findall(r"([\d.]+)/255", line)][:3]
    assert len(students) == 3
    assert max(students) < 2
    assert ran.stdout.count("of the step is waiting for data") == 2
    assert re.search(r"^ +600 ", ran.stdout, re.MULTILINE)
