"""DICOM reports: valid to a foreign validator, in the study of their image, marked, and received by an Orthanc."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("highdicom", reason="highdicom is missing, so that DICOM REPORTS ARE NOT TESTED: make test-serving")

from mlcak_hf.errors import DeploymentError
from mlcak_hf.prediction.predictor import RadiographPredictor
from mlcak_hf.serving.dicom_door import DicomNode, SpoolWorker
from mlcak_hf.serving.predict_queue import PredictQueue
from mlcak_hf.serving.reports import REPORT_COLUMNS, Peer, ReportSender, ReportWriter
from mlcak_hf.serving.results import Results
from mlcak_hf.serving.spool import Spool
from mlcak_hf.serving.summary import RunningSummary


@pytest.fixture(scope="module")
def image(chests: list[Path], tmp_path_factory) -> Path:
    """A radiograph as a modality sends it, with a patient and a study."""
    dataset = pydicom.dcmread(chests[0])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = "4711", "DOE^JANE", "", "F"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20260101", "120000", "1", "A1"
    dataset.ReferringPhysicianName = ""
    path = tmp_path_factory.mktemp("image") / "image.dcm"
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("kind", ["sr", "sc"])
def test_a_report_belongs_to_the_study_and_says_what_it_is(tmp_path, predictor, image, kind) -> None:
    (prediction,) = predictor.predict([image])
    writer = ReportWriter(tmp_path / "reports", kind, predictor)
    report, source = pydicom.dcmread(writer.write(prediction)), pydicom.dcmread(image)
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber"):
        assert report[keyword].value == source[keyword].value
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    assert "Research use only" in report.SeriesDescription
    assert list((tmp_path / "reports").rglob("*.p*")) == []
    assert writer.write(prediction).name == f"{report.SOPInstanceUID}.dcm"


def test_a_structured_report_holds_every_probability_and_refers_to_the_image(tmp_path, predictor, image) -> None:
    (prediction,) = predictor.predict([image])
    report = pydicom.dcmread(ReportWriter(tmp_path, "sr", predictor).write(prediction))
    found = {}

    def walk(items) -> None:
        for item in items:
            if item.ValueType == "NUM":
                value = item.MeasuredValueSequence[0].NumericValue
                found[item.ConceptNameCodeSequence[0].CodeMeaning.removeprefix("Probability of ")] = float(value)
            walk(item.get("ContentSequence", ()))

    walk(report.ContentSequence)
    assert found == pytest.approx(prediction.probabilities | prediction.findings, rel=1e-5)
    assert str(pydicom.dcmread(image).SOPInstanceUID) in str(report)
    assert report.VerificationFlag == "UNVERIFIED"


@pytest.mark.parametrize("kind", ["sr", "sc"])
def test_a_report_repeats_the_warnings(tmp_path, predictor, image, kind) -> None:
    (prediction,) = predictor.predict([image])
    prediction.warning = "in colour; unlike the training images (distance 9, limit 8)"
    report = pydicom.dcmread(ReportWriter(tmp_path, kind, predictor).write(prediction))
    text = str(report) if kind == "sr" else report.ImageComments
    assert "in colour" in text
    assert "unlike the training images (distance 9, limit 8)" in text


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is missing: REPORTS ARE NOT VALIDATED")
@pytest.mark.parametrize("kind", ["sr", "sc"])
def test_dciodvfy_finds_no_error(tmp_path, predictor, image, kind) -> None:
    (prediction,) = predictor.predict([image])
    report = ReportWriter(tmp_path, kind, predictor).write(prediction)
    checked = subprocess.run(["dciodvfy", str(report)], capture_output=True, text=True, check=False)
    assert [line for line in checked.stderr.splitlines() if line.startswith("Error")] == []
    assert ("EnhancedSR" if kind == "sr" else "SCImage") in checked.stderr.replace(" ", "")


def test_a_file_without_a_study_has_a_reason_and_no_report(tmp_path, predictor, image) -> None:
    stripped = pydicom.dcmread(image)
    del stripped.StudyInstanceUID
    stripped.save_as(tmp_path / "stripped.dcm")
    picture = tmp_path / "picture.png"
    predictor_files = predictor.predict([tmp_path / "stripped.dcm"])
    writer = ReportWriter(tmp_path / "reports", "sr", predictor)
    assert "StudyInstanceUID" in writer.columns_of(predictor_files[0])["report_error"]
    import numpy as np
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80), np.uint8)).save(picture)
    assert "needs a DICOM file" in writer.columns_of(predictor.predict([picture])[0])["report_error"]
    assert list((tmp_path / "reports").iterdir()) == []


def test_a_peer_is_named_by_title_host_and_port() -> None:
    assert Peer.parse("ORTHANC@127.0.0.1:4242") == ("ORTHANC", "127.0.0.1", 4242)
    with pytest.raises(DeploymentError, match="TITLE@HOST:PORT"):
        Peer.parse("127.0.0.1:4242")


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Orthanc:
    """An archive that sends each image to the node `MLCAK`, but not its reports."""

    def __init__(self, folder: Path, node_port: int):
        folder.mkdir()
        self.http, self.dicom = free_port(), free_port()
        (folder / "route.lua").write_text(
            "function OnStoredInstance(id, tags) if tags['Modality'] ~= 'SR' then SendToModality(id, 'mlcak') end end"
        )
        settings = {
            "StorageDirectory": str(folder), "IndexDirectory": str(folder), 
            "HttpPort": self.http, "DicomPort": self.dicom,
            "DicomAet": "ORTHANC", "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [],
            "LuaScripts": [str(folder / "route.lua")], "DicomModalities": {"mlcak": ["MLCAK", "127.0.0.1", node_port]},
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.process = subprocess.Popen(
            ["Orthanc", str(folder / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def ask(self, path: str, data: bytes | None = None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def wait(self, path: str, condition) -> object:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                if condition(answer := self.ask(path)):
                    return answer
            except OSError:
                assert self.process.poll() is None, "Orthanc ended"
            time.sleep(0.1)
        raise AssertionError(f"{path} did not become right")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("Orthanc") is None, reason="Orthanc is missing: ROUTING AND RETURNING IS NOT TESTED")
def test_orthanc_routes_an_image_to_the_node_and_receives_the_report(
    tmp_path: Path, predictor: RadiographPredictor, image: Path
) -> None:
    results = Results(tmp_path / "results.csv", predictor, REPORT_COLUMNS)
    spool, summary, queue = Spool(tmp_path / "spool"), RunningSummary(predictor), PredictQueue(predictor)
    writer = ReportWriter(tmp_path / "reports", "sr", predictor)
    worker = SpoolWorker(spool, queue, results, summary, writer.columns_of)
    node = DicomNode(spool, results, summary, ("127.0.0.1", 0), "MLCAK", ["ORTHANC"])
    orthanc = Orthanc(tmp_path / "orthanc", node.port)
    sender = ReportSender(tmp_path / "reports", Peer("ORTHANC", "127.0.0.1", orthanc.dicom), "MLCAK")
    try:
        orthanc.wait("/system", bool)
        orthanc.ask("/instances", image.read_bytes())
        series = orthanc.wait("/series?expand", lambda found: len(found) == 2)
        assert sorted(one["MainDicomTags"]["Modality"] for one in series) == ["DX", "SR"]
        assert len(orthanc.ask("/studies")) == 1
        until = time.monotonic() + 10
        while list((tmp_path / "reports").glob("*.dcm")) and time.monotonic() < until:
            time.sleep(0.1)
        assert len(list((tmp_path / "reports" / "sent").iterdir())) == 1
    finally:
        orthanc.process.terminate()
        orthanc.process.wait(20)
        for part in (node, sender, worker, results, queue):
            part.close()
