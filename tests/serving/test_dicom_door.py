"""The DICOM door: only known peers, every object predicted once, also after a kill, and foreign programs as peers."""

from __future__ import annotations

import csv
import errno
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pydicom
import pytest
from saved_models import save_with_card

pytest.importorskip(
    "pynetdicom", reason="pynetdicom is missing, so that THE DICOM DOOR IS NOT TESTED: make test-serving"
)

from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, Verification

from mlcak_hf.errors import DeploymentError
from mlcak_hf.serving.dicom_door import DicomNode, SpoolWorker
from mlcak_hf.serving.predict_queue import PredictQueue
from mlcak_hf.serving.results import Results
from mlcak_hf.serving.spool import Spool
from mlcak_hf.serving.summary import RunningSummary

needs_dcmtk = pytest.mark.skipif(
    shutil.which("storescu") is None, reason="dcmtk is missing, so that NO FOREIGN PEER IS TESTED: make test-serving"
)


class Door:
    def __init__(self, folder: Path, predictor, capacity: int = 100, works: bool = True, allowed=("MODALITY",), **node):
        self.output, self.closed = folder / "results.csv", False
        self.spool, self.results = Spool(folder / "spool", capacity), Results(self.output, predictor)
        self.queue, self.summary, self.said = PredictQueue(predictor), RunningSummary(predictor), []
        self.node = DicomNode(self.spool, self.results, self.summary, ("127.0.0.1", 0), "MLCAK", allowed, **node)
        self.worker = None
        if works:
            self.work()

    def work(self) -> None:
        self.worker = SpoolWorker(self.spool, self.queue, self.results, self.summary, say=self.said.append)

    def rows(self) -> list[dict[str, str]]:
        with self.output.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    def wait_for(self, count: int) -> list[dict[str, str]]:
        until = time.monotonic() + 30
        while (len(self.results) < count or len(self.spool)) and time.monotonic() < until:
            time.sleep(0.02)
        return self.rows()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.node.close()
        if self.worker:
            self.worker.close()
        self.results.close()
        self.queue.close()


@pytest.fixture
def open_door(tmp_path: Path, predictor):
    opened: list[Door] = []

    def start(**options) -> Door:
        opened.append(Door(tmp_path, predictor, **options))
        return opened[-1]

    yield start
    for door in opened:
        door.close()


def connect(port: int, kinds, title: str = "MODALITY", called: str = "MLCAK"):
    node = AE(ae_title=title)
    for kind, syntax in kinds:
        node.add_requested_context(kind, syntax)
    return node.associate("127.0.0.1", port, ae_title=called)


def send(door_port: int, files: list[Path], **options) -> list[int]:
    datasets = [pydicom.dcmread(file) for file in files]
    kinds = {(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID) for dataset in datasets}
    connection = connect(door_port, sorted(kinds), **options)
    assert connection.is_established
    statuses = [connection.send_c_store(dataset).Status for dataset in datasets]
    connection.release()
    return statuses


def uids(files: list[Path]) -> list[str]:
    return sorted(str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files)


def test_an_object_that_is_too_large_ends_its_association_and_no_other(open_door, chests: list[Path]) -> None:
    size = chests[0].stat().st_size
    door = open_door(max_bytes=2 * size)
    large = pydicom.dcmread(chests[0])
    large.add_new((0x0009, 0x0010), "LO", "TESTS")
    large.add_new((0x0009, 0x1001), "OB", bytes(40 * size))
    connection = connect(door.node.port, [(large.SOPClassUID, large.file_meta.TransferSyntaxUID)])
    assert "Status" not in connection.send_c_store(large)
    connection.join(10)
    assert connection.is_aborted
    assert send(door.node.port, chests) == [0] * len(chests)
    assert len(door.wait_for(len(chests))) == len(chests)
    assert any("more than" in reason for reason in door.summary.as_dict()["turned_away"])


def test_what_is_sent_is_predicted_once_and_leaves_the_spool(open_door, predictor, chests: list[Path]) -> None:
    door = open_door()
    assert send(door.node.port, chests) == [0] * len(chests)
    rows = door.wait_for(len(chests))
    assert sorted(row["image_id"] for row in rows) == uids(chests)
    expected = sorted(prediction.findings["Edema"] for prediction in predictor.predict(chests))
    assert sorted(float(row["finding/Edema"]) for row in rows) == pytest.approx(expected, rel=1e-5)
    assert send(door.node.port, chests) == [0] * len(chests)
    time.sleep(0.3)
    assert len(door.rows()) == len(chests)
    assert list(door.spool.folder.iterdir()) == []


def test_unknown_peers_titles_and_kinds_are_refused(open_door, chests: list[Path]) -> None:
    door = open_door()
    port, verify = door.node.port, [(Verification, None)]
    assert connect(port, verify).is_established
    assert connect(port, verify, title="STRANGER").is_rejected
    assert connect(port, verify, called="OTHER").is_rejected
    assert not connect(port, [(CTImageStorage, None)]).is_established
    assert door.summary.as_dict()["turned_away"] == {"DICOM: association rejected, such as for an unknown AE title": 2}


def test_a_full_spool_refuses_and_what_it_has_taken_is_predicted(open_door, chests: list[Path]) -> None:
    door = open_door(capacity=4, works=False)
    assert send(door.node.port, chests) == [0, 0, 0, 0, 0xA700, 0xA700]
    door.work()
    assert len(door.wait_for(4)) == 4
    assert send(door.node.port, chests) == [0] * 6
    assert sorted(row["image_id"] for row in door.wait_for(6)) == uids(chests)


def test_a_full_disk_under_the_spool_refuses(open_door, chests: list[Path], monkeypatch) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    door = open_door()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert send(door.node.port, chests[:1]) == [0xA700]
    assert send(door.node.port, chests[:1]) == [0]
    assert len(door.wait_for(1)) == 1


def test_a_full_disk_under_the_results_loses_nothing(open_door, chests: list[Path], monkeypatch) -> None:
    from mlcak_hf.prediction import journal
    from mlcak_hf.serving import dicom_door

    door = open_door(works=False)
    monkeypatch.setattr(dicom_door, "_RETRY_S", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "add", lambda *_: (_ for _ in ()).throw(DeploymentError("The disk is full.")))
        send(door.node.port, chests)
        door.work()
        while not door.said:
            time.sleep(0.01)
    assert len(door.wait_for(len(chests))) == len(chests)
    assert door.said == ["The disk is full."]


def test_files_of_an_earlier_run_are_predicted_and_done_ones_only_deleted(
    open_door, predictor, chests, tmp_path
) -> None:
    first = open_door(works=False)
    send(first.node.port, chests)
    done = first.spool.first(2)
    first.results.add((file.name, p, {}) for file, p in zip(done, predictor.predict(done), strict=True))
    (tmp_path / "spool" / ".cut_off.dcm.partial").write_bytes(b"half")
    first.close()
    second = open_door()
    assert len(second.wait_for(len(chests))) == len(chests)
    assert list(second.spool.folder.iterdir()) == []


@pytest.mark.parametrize(("title", "allowed"), [("MLCAK", ()), ("MUCH TOO LONG TITLE", ("A",)), ("MLCAK", ("Ä",))])
def test_titles_are_checked(tmp_path: Path, predictor, title: str, allowed) -> None:
    summary = RunningSummary(predictor)
    with pytest.raises(DeploymentError, match="AE title"):
        DicomNode(Spool(tmp_path / "s"), {}, summary, ("127.0.0.1", 0), title, allowed)


def test_a_port_in_use_is_one_sentence(open_door, tmp_path: Path, predictor) -> None:
    door = open_door()
    with pytest.raises(DeploymentError, match="is in use"):
        DicomNode(Spool(tmp_path / "s"), {}, door.summary, ("127.0.0.1", door.node.port), "MLCAK", ("A",))


@needs_dcmtk
def test_dcmtk_echoes_and_stores(open_door, chests: list[Path]) -> None:
    door = open_door()
    peer = ["-aet", "MODALITY", "-aec", "MLCAK", "127.0.0.1", str(door.node.port)]
    assert subprocess.run(["echoscu", *peer], check=False).returncode == 0
    assert subprocess.run(["echoscu", "-aet", "STRANGER", *peer[2:]], check=False, capture_output=True).returncode != 0
    plain = [
        file
        for file in chests
        if not pydicom.dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID.is_compressed
    ]
    assert plain
    assert subprocess.run(["storescu", *peer, *map(str, plain)], check=False).returncode == 0
    assert sorted(row["image_id"] for row in door.wait_for(len(plain))) == uids(plain)


@pytest.mark.slow
def test_a_killed_server_predicts_each_object_once(tmp_path: Path, predictor, chests, start_command) -> None:
    """60 objects, three kills while it works, and the sender sends again what was not confirmed."""
    folder = save_with_card(predictor.model, predictor.processor, tmp_path / "model")
    waiting = [pydicom.dcmread(chests[number % 6]) for number in range(60)]
    for dataset in waiting:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    expected = sorted(str(dataset.SOPInstanceUID) for dataset in waiting)
    kinds = sorted({(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID) for dataset in waiting})
    command = ["serve", folder, "--port", 0, "--dicom-port", 0, "--allow", "MODALITY", "--output"]
    journal, errors = tmp_path / "results.csv.journal", tmp_path / "errors"
    for lines in (5, 20, 35, None):
        errors.write_text("")
        process = start_command(*command, tmp_path / "results.csv")
        while "DICOM: MLCAK@127.0.0.1:" not in errors.read_text() and process.is_alive():
            time.sleep(0.02)
        port = int(errors.read_text().split("DICOM: MLCAK@127.0.0.1:")[1].split(",")[0])
        connection = connect(port, kinds)
        while waiting and connection.is_established:
            if lines is not None and journal.read_bytes().count(b"\n") > lines:
                break
            status = connection.send_c_store(waiting[0])
            if status and status.Status == 0:
                waiting.pop(0)
        if lines is not None:
            process.kill()
        else:
            assert not waiting
            while any((tmp_path / "results.csv.spool").iterdir()):
                time.sleep(0.05)
            process.terminate()
        process.join(100)
        assert process.exitcode == (0 if lines is None else -signal.SIGKILL)
        connection.abort()
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as stream:
        assert sorted(row["image_id"] for row in csv.DictReader(stream)) == expected
