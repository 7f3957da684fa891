"""The benchmark of a distillation step runs to its end and measures every side (with tiny models, as a whole)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])
def test_every_side_computes_in_the_precision_that_is_asked_for(tmp_path, monkeypatch, bf16):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import distillation_step as benchmark

    rows, collator = (
        benchmark.make_rows(2),
        benchmark.MLCAKCollator(benchmark.processor(28), benchmark.processor(224), benchmark.ViewParameters()),
    )
    teacher = benchmark.untrained("teacher-tiny-224").requires_grad_(False).eval()
    teachers = benchmark.Teachers(teacher, benchmark.untrained("student-tiny-28"))
    options = benchmark.CacheOptions(1, progress_bar=False)
    cache = benchmark.build_teacher_cache(tmp_path / "cache", teachers, rows, collator, options)
    found = set()
    for module in (torch.nn.Linear, torch.nn.Conv2d):
        forward = module.forward
        monkeypatch.setattr(
            module, "forward", lambda self, x, forward=forward: (found.add((y := forward(self, x)).dtype), y)[1]
        )
    sides = benchmark.make_sides(benchmark.Sizes(bf16=bf16), "student-tiny-28", teacher, rows, collator, cache)
    for side, step in sides.items():
        found.clear()
        step()
        assert found == {torch.bfloat16 if bf16 else torch.float32}, side
