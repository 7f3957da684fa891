"""Several `prepare` commands for one folder at once: one works, the others say who does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vindr_factories import make_vindr

from mlcak_hf.errors import DatasetError
from mlcak_hf.preparation.merge import merge_prepared
from mlcak_hf.preparation.prepare import PartReport, prepare_part
from mlcak_hf.preparation.report import PreparationReport
from mlcak_hf.preparation.shards import plan
from mlcak_hf.vindr_cxr.options import VinDrOptions
from mlcak_hf.vindr_cxr.vindr_source import VinDrSource, prepare_vindr_cxr

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr(plan, "IMAGES_PER_SHARD", 3)


@pytest.fixture
def vindr(tmp_path: Path) -> Path:
    return make_vindr(tmp_path / "vindr", {f"a{i:02d}": {"R1": []} for i in range(30)}, {"t0": [], "t1": []})


@pytest.fixture
def start(vindr, tmp_path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Another process that prepares the same dataset, halted in the middle."""
    started = []

    def call(*options: str) -> subprocess.Popen[bytes]:
        script = [sys.executable, Path(__file__).with_name("kills.py"), "prepare", vindr, tmp_path / "out"]
        process = subprocess.Popen([*script, "--size", "64", *options], stderr=subprocess.DEVNULL)
        started.append(process)
        while not list((tmp_path / "out.partial" / "dataset" / "data").glob("*.parquet")):
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGSTOP)
        return process

    yield call
    for process in started:
        process.kill()
        process.wait()


def named(process: subprocess.Popen[bytes]) -> str:
    return rf"out is being prepared by process {process.pid} on {socket.gethostname()}\. Wait until it ends\.$"


def part(vindr: Path, output: Path, of: tuple[int, int], size_px: int = 64, **choices) -> PartReport:
    return prepare_part(VinDrSource(vindr, VinDrOptions(size_px=size_px)), output, of, **choices)


def test_the_second_of_two_processes_names_the_first_whatever_its_choices(vindr, tmp_path, start) -> None:
    first = start()
    for choices in ({}, {"size_px": 32}, {"size_px": 32, "overwrite": True}):
        with pytest.raises(DatasetError, match=named(first)):
            prepare_vindr_cxr(vindr, tmp_path / "out", **{"size_px": 64} | choices)
    with pytest.raises(DatasetError, match=named(first)):
        part(vindr, tmp_path / "out", (0, 2))
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait() == 0  # undisturbed
    assert PreparationReport.read(tmp_path / "out").choices["size_px"] == 64
    assert {path.name for path in tmp_path.iterdir()} == {"vindr", "out"}


def test_beside_a_part_only_other_parts_of_the_same_work_are_written(vindr, tmp_path, start) -> None:
    first, out = start("--shard", "0/2"), tmp_path / "out"
    assert part(vindr, out, (1, 2)).written == 6
    refused = [
        lambda: part(vindr, out, (0, 2)),  # the same part
        lambda: part(vindr, out, (0, 3)),  # has shards in common
        lambda: part(vindr, out, (1, 2), size_px=32),
        lambda: prepare_vindr_cxr(vindr, out, size_px=32, overwrite=True),
        lambda: merge_prepared(out),
    ]
    for call in refused:
        with pytest.raises(DatasetError, match=named(first)):
            call()
    os.kill(first.pid, signal.SIGCONT)
    assert first.wait() == 0  # undisturbed
    assert merge_prepared(out).splits["test"].images == 2
    assert {path.name for path in tmp_path.iterdir()} == {"vindr", "out"}


@pytest.mark.parametrize(("options", "lock"), [((), "whole"), (("--shard", "0/2"), "part-0-of-2")])
def test_the_lock_of_a_killed_process_is_free(vindr, tmp_path, start, options, lock) -> None:
    first = start(*options)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert (tmp_path / "out.partial" / f"{lock}.lock").exists()
    prepare_vindr_cxr(vindr, tmp_path / "out", size_px=64, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"vindr", "out"}
