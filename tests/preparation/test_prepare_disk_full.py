"""A disk that fills up while `prepare` writes: one clear error, nothing half-written counts, the same call goes on."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from vindr_factories import chest, make_dicom, make_vindr

from mlcak_hf.errors import DatasetError
from mlcak_hf.preparation.shards import plan, work_folder
from mlcak_hf.vindr_cxr.vindr_source import prepare_vindr_cxr

CHOICES = {"size_px": 128}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr(plan, "IMAGES_PER_SHARD", 3)


@pytest.fixture
def vindr(tmp_path: Path) -> Path:
    root = make_vindr(tmp_path / "vindr", {f"a{i:02d}": {"R1": []} for i in range(20)}, {"t1": []})
    for number, path in enumerate(sorted(root.rglob("*.dicom"))):
        make_dicom(path, chest(150, 150, seed=number), bits=12)
    return root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("NO SMALL DISK: this account may not mount one; the simulated full disk is tested all the same")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("num_proc", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_really_full_disk_is_one_clear_error(vindr, tmp_path, small_disk, num_proc) -> None:
    prepare_vindr_cxr(vindr, tmp_path / "out", **CHOICES)
    expected = content(tmp_path / "out")
    assert sum(map(len, expected.values())) > 256 * 1024
    for _ in range(2):
        with pytest.raises(DatasetError, match=r"Cannot write .*No space left on device.*the same command continues"):
            prepare_vindr_cxr(vindr, small_disk / "out", num_proc=num_proc, **CHOICES)
        assert not (small_disk / "out").exists()
        shards = list((small_disk / "out.partial" / "dataset" / "data").iterdir())
        assert shards
        assert all(path.read_bytes() == expected[f"data/{path.name}"] for path in shards)
        assert not list((small_disk / "out.partial" / "unfinished").iterdir())
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    prepare_vindr_cxr(vindr, small_disk / "out", num_proc=num_proc, **CHOICES)
    assert content(small_disk / "out") == expected
    assert [path.name for path in small_disk.iterdir()] == ["out"]


@pytest.mark.parametrize("call", range(12))
def test_a_disk_that_is_full_at_any_file_is_one_clear_error(vindr, tmp_path, monkeypatch, call) -> None:
    """The disk is full when a certain file should reach it: plan, shards, record or card."""
    calls = iter(range(call))

    def sync(descriptor: int) -> None:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(work_folder.os, "fsync", sync)
        with pytest.raises(DatasetError, match=r"Cannot write .*No space left on device"):
            prepare_vindr_cxr(vindr, tmp_path / "out", **CHOICES)
    assert not (tmp_path / "out").exists()
    report = prepare_vindr_cxr(vindr, tmp_path / "out", **CHOICES)
    assert report.splits["train"].images + report.splits["validation"].images == 20
    assert {path.name for path in tmp_path.iterdir()} == {"vindr", "out"}
