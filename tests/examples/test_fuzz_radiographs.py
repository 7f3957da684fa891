"""The fuzz proof in small: its whole files, its damages, and 200 damaged files read by a watched process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlcak_hf.radiographs.dicom.pixels import READABLE_SYNTAXES
from mlcak_hf.radiographs.read import read_radiograph

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="imagecodecs has no HTJ2K encoder for Python 3.10")
BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"


@pytest.fixture
def damaged(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import damaged_radiographs

    return damaged_radiographs


def test_there_are_whole_files_of_every_family_and_each_damage_does_some(tmp_path, damaged) -> None:
    files = damaged.make_whole_files(None)
    assert len({name for name, _ in files if "," not in name and " " not in name}) == len(READABLE_SYNTAXES)
    for number, (_, content) in enumerate(files):
        (tmp_path / f"{number}").write_bytes(content)
        assert read_radiograph(tmp_path / f"{number}").std() > 0.01
    for name, function in damaged.DAMAGES.items():
        changed = 0
        for seed in range(40):
            content = files[seed * 3 % len(files)][1]
            data = bytearray(content)
            function(np.random.default_rng(seed), data, files)
            changed += bytes(data) != content
        assert changed >= 8, name
    again = [damaged.damage(np.random.default_rng([3, 5]), files) for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.slow
def test_two_hundred_damaged_files_give_images_or_our_errors(tmp_path) -> None:
    command = [sys.executable, str(BENCHMARKS / "fuzz_radiographs.py"), "--count", "200", "--workers", "1"]
    done = subprocess.run(
        [*command, "--offending", str(tmp_path / "offending")],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "150"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broke a rule" in done.stdout
    assert not (tmp_path / "offending").exists()
