"""`prepare` killed, out of disk, with a process that dies: the same call goes on, and ends with the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from vindr_factories import chest, make_dicom, make_vindr

from mlcak_hf.errors import DatasetError, DicomError
from mlcak_hf.preparation.report import PreparationReport
from mlcak_hf.preparation.shards import plan, shard_files, work_folder
from mlcak_hf.vindr_cxr.vindr_source import prepare_vindr_cxr

SHARDS = 8


@pytest.fixture
def vindr(tmp_path: Path) -> Path:
    """Sixteen training and four test images, most of them abnormal: 8 shards of three, with validation."""
    train = {f"a{i:02d}": {r: ["Edema"] if i % 3 else [] for r in ("R1", "R2", "R3")} for i in range(16)}
    return make_vindr(tmp_path / "vindr", train, {f"t{i}": [] for i in range(4)})


@pytest.fixture(autouse=True)
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr(plan, "IMAGES_PER_SHARD", 3)


@pytest.fixture
def prepare(vindr, tmp_path) -> Callable:
    def call(**choices):
        return prepare_vindr_cxr(vindr, tmp_path / "out", **{"size_px": 32} | choices)

    return call


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def beside(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.iterdir()} - {"vindr"}


def undisturbed(vindr: Path, tmp_path: Path, **choices) -> dict[str, bytes]:
    output = tmp_path / "undisturbed"
    prepare_vindr_cxr(vindr, output, **{"size_px": 32} | choices)
    result = content(output)
    shutil.rmtree(output)
    assert sum(name.endswith(".parquet") for name in result) == SHARDS
    return result


class Stopped(BaseException):
    """What a test stops the work with; nothing in the package catches it."""


class Deadly(work_folder.WorkFolder):
    """Kills the process that begins a certain shard, once."""

    def begin(self, name: str) -> Path:
        if name.startswith("test-00001") and (self.output.parent / "kill-one").exists():
            (self.output.parent / "kill-one").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().begin(name)


def stop_after(monkeypatch, count: int) -> None:
    """Let the shard after `count` others fail half-way."""
    write, calls = shard_files.image_rows, []

    def image_rows(*args):
        calls.append(args)
        if len(calls) > 3 * count + 1:
            raise Stopped
        return write(*args)

    monkeypatch.setattr(shard_files, "image_rows", image_rows)


def die_at(step: int, work: Callable[[], object]) -> bool:
    """Run `work` in a forked process that ends, without any clean-up, before its n-th change of a name on the disk.

    Returns:
        Whether it came to its end before that.
    """
    child = os.fork()
    if child == 0:
        steps = iter(range(step))

        def counted(function):
            def call(*args, **kwargs):
                if next(steps, None) is None:
                    os._exit(9)
                return function(*args, **kwargs)

            return call

        for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("over_another", [False, True])
def test_after_a_kill_at_any_step_the_next_call_ends_with_the_same_bytes(
    prepare, tmp_path, over_another, monkeypatch
) -> None:
    """Exhaustive: every rename, removal and new folder of a whole run is one moment at which the process ends."""
    monkeypatch.setattr(plan, "IMAGES_PER_SHARD", 9)
    prepare()
    expected = content(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    if over_another:
        prepare(size_px=16)
        old = content(tmp_path / "out")
        shutil.copytree(tmp_path / "out", tmp_path / "old")
    for step in range(100):
        done = die_at(step, lambda: prepare(overwrite=over_another))
        if (tmp_path / "out").exists():  # never a mixture, whatever the moment
            assert content(tmp_path / "out") in ([old, expected] if over_another else [expected])
        report = prepare(overwrite=over_another)
        assert content(tmp_path / "out") == expected
        assert report.splits["test"].images == 4
        assert beside(tmp_path) == {"out"} | ({"old"} if over_another else set())
        if done:
            break
        shutil.rmtree(tmp_path / "out")
        if over_another:
            shutil.copytree(tmp_path / "old", tmp_path / "out")
    assert step > 20, "the steps are no longer counted"
    assert done


@pytest.mark.slow
def test_killed_at_random_moments(vindr, tmp_path) -> None:
    """A small version of examples/benchmarks/prepare_at_scale.py: kill -9 of all processes, at seeded moments."""
    expected = undisturbed(vindr, tmp_path, size_px=64)
    generator, killed = random.Random(0), 0
    script = [sys.executable, Path(__file__).with_name("kills.py"), "prepare", vindr, tmp_path / "out", "--size", "64"]
    script += ["--workers", "2", "--overwrite"]
    while killed < 2:
        process = subprocess.Popen(script, start_new_session=True, stderr=subprocess.DEVNULL)
        data = tmp_path / "out.partial" / "dataset" / "data"
        before = len(list(data.glob("*.parquet")))
        while process.poll() is None and len(list(data.glob("*.parquet"))) < before + 1:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.2))
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
        assert before < len(list(data.glob("*.parquet"))) < SHARDS
        assert not (tmp_path / "out").exists()
    finished = {path: path.stat().st_ino for path in data.glob("*.parquet")}
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert f"{len(finished)} of {SHARDS} shards were finished before" in done.stderr
    assert content(tmp_path / "out") == expected
    for path, inode in finished.items():  # the very files, not written again
        assert (tmp_path / "out" / "data" / path.name).stat().st_ino == inode
    assert beside(tmp_path) == {"out"}


def test_unfinished_work_of_other_choices_or_files_is_refused_or_replaced(
    vindr, prepare, tmp_path, monkeypatch
) -> None:
    with monkeypatch.context() as stopping:
        stop_after(stopping, 2)
        with pytest.raises(Stopped):
            prepare()
    assert beside(tmp_path) == {"out.partial"}
    with pytest.raises(DatasetError, match=r"out\.partial holds unfinished work .*size_px 32 instead of 16"):
        prepare(size_px=16)
    file = vindr / "train" / "a03.dicom"
    times = file.stat().st_mtime_ns
    os.utime(file, ns=(times + 1, times + 1))
    remedy = r"images of the source were modified since\. Remove that folder, or start again with .*--overwrite"
    with pytest.raises(DatasetError, match=remedy):
        prepare()
    os.utime(file, ns=(times, times))
    make_dicom(file, chest(60, 60), bits=12)
    with pytest.raises(DatasetError, match="does not match: other tables or images"):
        prepare()
    monkeypatch.setattr(plan, "distributions", lambda name: [SimpleNamespace(version="0.0.1")])
    with pytest.raises(DatasetError, match=r"datasets '.*' instead of '0\.0\.1'"):
        prepare()
    monkeypatch.undo()
    monkeypatch.setattr(plan, "IMAGES_PER_SHARD", 3)
    prepare(overwrite=True)
    assert content(tmp_path / "out") == undisturbed(vindr, tmp_path)
    assert beside(tmp_path) == {"out"}


def test_unfinished_work_without_a_finished_shard_is_replaced(prepare, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as stopping:
        stop_after(stopping, 0)
        with pytest.raises(Stopped):
            prepare(size_px=16)
    prepare()
    assert PreparationReport.read(tmp_path / "out").choices["size_px"] == 32


def test_a_complete_dataset_is_left_alone(prepare, tmp_path, caplog) -> None:
    prepare()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    report = prepare()
    assert report == prepare()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    prepare(on_error="skip")  # would make the same
    next((tmp_path / "out" / "data").iterdir()).unlink()
    with pytest.raises(DatasetError, match="is not empty"):
        prepare()


def test_images_corrected_after_a_kill_at_the_very_end_are_noticed(vindr, prepare, tmp_path, monkeypatch) -> None:
    """The dataset was in its place, and only the clearing up was missing: --overwrite must not ask for --overwrite."""
    with monkeypatch.context() as stopping:
        stopping.setattr(work_folder.WorkFolder, "discard", Mock(side_effect=Stopped))
        with pytest.raises(Stopped):
            prepare()
    assert beside(tmp_path) == {"out", "out.partial"}
    for image in vindr.glob("train/*.dicom"):
        image.write_bytes(image.read_bytes().replace(b"MONOCHROME2 ", b"MONOCHROME1 "))
    with pytest.raises(DatasetError, match=r"modified since\. .* \(--overwrite\)"):
        prepare()
    prepare(overwrite=True)
    assert content(tmp_path / "out") == undisturbed(vindr, tmp_path)
    assert beside(tmp_path) == {"out"}


def test_foreign_files_are_never_touched(prepare, tmp_path) -> None:
    work = tmp_path / "out.partial"
    work.mkdir()
    (work / "thesis.tex").write_text("years of work")
    with pytest.raises(DatasetError, match=r"out\.partial .*holds other files"):
        prepare()
    assert (work / "thesis.tex").read_text() == "years of work"


def test_a_damaged_shard_is_written_again(vindr, prepare, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as stopping:
        stop_after(stopping, 3)
        with pytest.raises(Stopped):
            prepare()
    data = tmp_path / "out.partial" / "dataset" / "data"
    first, second, third = sorted(data.iterdir())
    first.write_bytes(first.read_bytes()[:-100])
    second.write_bytes(third.read_bytes())  # whole, but another one
    prepare()
    assert content(tmp_path / "out") == undisturbed(vindr, tmp_path)


def test_an_unreadable_image_found_late_loses_nothing(vindr, prepare, tmp_path) -> None:
    (vindr / "test" / "t3.dicom").write_bytes(b"cut off")
    with pytest.raises(DicomError, match=r"t3\.dicom: .*--on-error skip"):
        prepare(num_proc=2)
    data = tmp_path / "out.partial" / "dataset" / "data"
    assert len(list(data.iterdir())) >= SHARDS - 3
    report = prepare(on_error="skip")
    assert [(r.folder, r.image_id) for r in report.skipped] == [("test", "t3")]
    assert report.sources["test"] == {"found": 4, "used": 3, "skipped": 1}
    assert content(tmp_path / "out") == undisturbed(vindr, tmp_path, on_error="skip")


def test_images_skipped_before_are_refused_with_raise(vindr, prepare, monkeypatch) -> None:
    (vindr / "train" / "a00.dicom").write_bytes(b"cut off")
    with monkeypatch.context() as stopping:
        stop_after(stopping, 6)
        with pytest.raises(Stopped):
            prepare(on_error="skip")
    with pytest.raises(DicomError, match=r"a00\.dicom: .*--on-error skip"):
        prepare()
    prepare(on_error="skip")
    with pytest.raises(DatasetError, match="is not empty"):
        prepare()


def test_a_process_that_dies_is_named_and_the_same_call_resumes(vindr, prepare, tmp_path, monkeypatch) -> None:
    (tmp_path / "kill-one").touch()
    monkeypatch.setattr("mlcak_hf.preparation.prepare.WorkFolder", Deadly)
    match = r"died while writing test-00001-of-00002 \(SIGKILL\).*the same command continues"
    with pytest.raises(DatasetError, match=match):
        prepare(num_proc=2)
    assert not list((tmp_path / "out.partial" / "unfinished").iterdir())
    monkeypatch.undo()
    monkeypatch.setattr(plan, "IMAGES_PER_SHARD", 3)
    prepare(num_proc=2)
    assert content(tmp_path / "out") == undisturbed(vindr, tmp_path)
