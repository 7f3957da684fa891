"""Two identical `prepare` commands at once: one works, the other says who does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from vindr_factories import make_vindr

from mlcak_hf.errors import DatasetError
from mlcak_hf.preparation.report import PreparationReport
from mlcak_hf.vindr_cxr.vindr_source import prepare_vindr_cxr


@pytest.fixture
def vindr(tmp_path: Path) -> Path:
    return make_vindr(tmp_path / "vindr", {f"a{i:02d}": {"R1": []} for i in range(30)}, {"t0": [], "t1": []})


@pytest.fixture
def first(vindr, tmp_path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that prepares the same dataset, slowly."""
    script = [sys.executable, str(Path(__file__).with_name("kills.py")), str(vindr), str(tmp_path / "out"), "1"]
    with subprocess.Popen(script, stderr=subprocess.DEVNULL) as process:
        while not list((tmp_path / "out.partial" / "dataset" / "data").glob("*.parquet")):
            assert process.poll() is None
            time.sleep(0.01)
        yield process
        process.kill()


def test_the_second_of_two_processes_names_the_first(vindr, tmp_path, first) -> None:
    with pytest.raises(DatasetError, match=f"is being prepared by process {first.pid} on {socket.gethostname()}"):
        prepare_vindr_cxr(vindr, tmp_path / "out", size_px=64)
    assert first.wait() == 0  # undisturbed
    assert PreparationReport.read(tmp_path / "out").splits["test"].images == 2
    assert {path.name for path in tmp_path.iterdir()} == {"vindr", "out"}


def test_the_lock_of_a_killed_process_is_free(vindr, tmp_path, first) -> None:
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert (tmp_path / "out.partial" / "whole.lock").exists()
    prepare_vindr_cxr(vindr, tmp_path / "out", size_px=64, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"vindr", "out"}
