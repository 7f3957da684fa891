"""Predictions as DICOM objects: a Structured Report (TID 1500) or a picture (Secondary Capture), and sending them."""

from __future__ import annotations

import hashlib
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pydicom
from PIL import Image

from ..errors import DeploymentError
from ..prediction.file_predictor import FilePredictor, predict_each
from ..prediction.journal import unwritable
from ..prediction.onnx_metadata import RESEARCH_NOTICE
from ..prediction.reading import Prediction

ReportKind = Literal["sr", "sc"]
#: Columns of the results that [`ReportWriter.columns_of`] fills in.
REPORT_COLUMNS = ("report", "report_error")
_SCHEME = "99MLCAK"
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# Files for research often lack these; a report must have them, with or without a value.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
_MAKER = "mlcak-hf (research use only)"


class ReportWriter:
    """Writes a report of each predicted DICOM file, in the patient and study of that file.

    The same file, model and prediction give the same SOP Instance UID, so that a report that is written or sent again
    after a kill is not a second one.

    Args:
        folder (`Path`):
            Folder for the reports. It is made if it is missing.
        kind (`str`):
            `"sr"`: a Structured Report with the probabilities. `"sc"`: a Secondary Capture picture of the radiograph
            with what the model attended to.
        predictor ([`FilePredictor`]):
            The model.

    Raises:
        [`DeploymentError`]: When highdicom is not installed, the folder cannot be made, or a model without attention is
            to draw pictures.
    """

    def __init__(self, folder: Path, kind: ReportKind, predictor: FilePredictor) -> None:
        self.folder, self.kind, self._predictor = folder, kind, predictor
        try:
            import highdicom  # noqa: F401
        except ImportError:
            raise DeploymentError(
                "DICOM reports need highdicom. Install it: pip install 'mlcak-hf[dicom-out]'."
            ) from None
        if kind == "sc" and not predictor.has_attention:
            raise DeploymentError("Pictures need a model with attention; got a CNN. Use --report-as sr.")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error

    def columns_of(self, prediction: Prediction) -> Mapping[str, str | None]:
        """Write the report of a prediction if there is one to write.

        Args:
            prediction ([`Prediction`]):
                Of a file that is still there.

        Returns:
            `dict`: `report`, the name of the written file, and `report_error`, why there is none.

        Raises:
            [`DeploymentError`]: When the disk is full.
        """
        if prediction.outcome != "predicted":
            return dict.fromkeys(REPORT_COLUMNS)
        try:
            return {"report": self.write(prediction).name, "report_error": None}
        except _NoReportError as error:
            return {"report": None, "report_error": str(error)}

    def write(self, prediction: Prediction) -> Path:
        """Write the report of a prediction.

        Raises:
            [`DeploymentError`]: When the file is not DICOM, belongs to no study, or the report cannot be written.
        """
        source = _source_of(prediction.file)
        identity = f"{source.SOPInstanceUID}|{self._predictor.weights}|{self.kind}|{prediction.probabilities}"
        uid, series = _uid("report", identity), _uid("series", identity)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values of the file
            try:
                make = self._structured if self.kind == "sr" else self._picture
                made = make(prediction, source, series, uid)
            except (AttributeError, ValueError, TypeError, KeyError) as error:
                raise _NoReportError(
                    f"Its header does not allow a report ({type(error).__name__}). Export the file again."
                ) from None
            path = self.folder / f"{uid}.dcm"
            partial = self.folder / f".{uid}.partial"
            try:
                made.save_as(partial, enforce_file_format=True)
                partial.replace(path)
            except OSError as error:
                partial.unlink(missing_ok=True)
                raise unwritable(self.folder, error) from error
        return path

    def _structured(self, prediction: Prediction, source: Any, series: str, uid: str) -> Any:
        from highdicom import sr
        from pydicom.sr.codedict import codes

        model = self._predictor.provenance
        algorithm = sr.AlgorithmIdentification(
            name=model["model"][:64] or "mlcak", version=model["weights"] or "unknown"
        )
        measurements = [
            sr.Measurement(_code(sr, f"Probability of {label}"), value, codes.UCUM.NoUnits, algorithm_id=algorithm)
            for label, value in [*prediction.probabilities.items(), *prediction.findings.items()]
            if value == value
        ]
        evaluations = [
            sr.QualitativeEvaluation(_code(sr, f"Decision on {name.split('/', 1)[1]}"), _code(sr, found.decision))
            for name, found in prediction.decisions.items()
            if found.decision
        ]
        notes = [("Intended use", "Research use only")]
        notes += [("Warning", warning) for warning in (prediction.warning or "").split("; ") if warning]
        evaluations += [sr.QualitativeEvaluation(_code(sr, name), _code(sr, value)) for name, value in notes]
        group = sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=_uid("group", uid), identifier="mlcak"),
            source_images=[sr.SourceImageForMeasurementGroup.from_source_image(source)],
            measurements=measurements,
            qualitative_evaluations=evaluations,
        )
        device = sr.ObserverContext(
            codes.DCM.Device,
            sr.DeviceObserverIdentifyingAttributes(
                uid=_uid("device", model["weights"]),
                name="mlcak",
                manufacturer_name=_MAKER,
            ),
        )
        content = sr.MeasurementReport(
            observation_context=sr.ObservationContext(observer_device_context=device),
            procedure_reported=_code(sr, "Chest radiograph"),
            imaging_measurements=[group],
            title=codes.DCM.ImagingMeasurementReport,
        )
        return sr.EnhancedSR(
            evidence=[source], content=content, series_instance_uid=series, series_number=9000, sop_instance_uid=uid,
            instance_number=1, manufacturer=_MAKER, series_description=RESEARCH_NOTICE[:64], is_complete=True,
        )  # fmt: skip

    def _picture(self, prediction: Prediction, source: Any, series: str, uid: str) -> Any:
        from highdicom.sc import SCImage

        drawn = predict_each(self._predictor, [prediction.file], self.folder / ".heatmaps")[0].heatmap
        if drawn is None:
            raise _NoReportError("No picture could be drawn. Use --report-as sr.")
        pixels = np.asarray(Image.open(drawn).convert("RGB"))
        drawn.unlink()
        orientation = source.get("PatientOrientation")
        picture = SCImage.from_ref_dataset(
            source, pixel_array=pixels, photometric_interpretation="RGB", bits_allocated=8,
            coordinate_system="PATIENT", patient_orientation=orientation or ("L", "F"), series_instance_uid=series,
            series_number=9001, sop_instance_uid=uid, instance_number=1, manufacturer=_MAKER,
            series_description=RESEARCH_NOTICE[:64], transfer_syntax_uid=pydicom.uid.ExplicitVRLittleEndian,
        )  # fmt: skip
        if prediction.warning:
            picture.ImageComments = f"Warning: {prediction.warning}"
        picture.BodyPartExamined = source.get("BodyPartExamined") or "CHEST"
        if not orientation:
            picture.PatientOrientation = None  # highdicom insists on one; the file does not say
        return picture


class _NoReportError(DeploymentError):
    """There can be no report of this file."""


def _uid(kind: str, identity: str) -> str:
    """The same UID for the same identity."""
    return str(pydicom.uid.generate_uid(entropy_srcs=[kind, identity]))


def _code(sr: Any, meaning: str) -> Any:
    return sr.CodedConcept(hashlib.sha256(meaning.encode()).hexdigest()[:12], _SCHEME, meaning[:64])


def _source_of(file: Path) -> Any:
    try:
        source = pydicom.dcmread(file, stop_before_pixels=True)
    except (pydicom.errors.InvalidDicomError, OSError):
        raise _NoReportError("A report needs a DICOM file, which says whose it is. Send the original.") from None
    missing = [keyword for keyword in _NEEDED if not source.get(keyword)]
    if missing:
        raise _NoReportError(f"A report needs {', '.join(missing)}, which the file lacks. Send the original.")
    for keyword in _MAY_BE_EMPTY:
        if keyword not in source:
            setattr(source, keyword, None)
    return source


class Peer(NamedTuple):
    """Another DICOM node: `TITLE@HOST:PORT`."""

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Read `TITLE@HOST:PORT`.

        Raises:
            [`DeploymentError`]: When the text has another form.
        """
        found = re.fullmatch(r"([\x21-\x3f\x41-\x5b\x5d-\x7e]{1,16})@(\S+):(\d{1,5})", text)
        if found is None:
            raise DeploymentError(f"A DICOM node must be named TITLE@HOST:PORT; got {text!r}.")
        return cls(found[1], found[2], int(found[3]))


class ReportSender:
    """Sends the reports in a folder to another node by C-STORE, in a thread. What was sent is moved to `sent/`.

    Args:
        folder (`Path`):
            Folder of the reports.
        peer ([`Peer`]):
            Where to send them.
        title (`str`):
            AE title of this node.
        say (`Callable`, *optional*):
            Called with a sentence when the peer stops or starts answering.
    """

    def __init__(self, folder: Path, peer: Peer, title: str, say: Callable[[str], None] = print) -> None:
        self._folder, self._peer, self._title, self._say = folder, peer, title, say
        self._stop = threading.Event()
        (folder / "sent").mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, name="reports", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the report in hand, and stop."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        failed = False
        while not self._stop.is_set():
            waiting = sorted(self._folder.glob("*.dcm"))
            sent = self._send(waiting) if waiting else True
            if sent == failed:
                peer = f"{self._peer.title}@{self._peer.host}:{self._peer.port}"
                self._say(
                    f"{peer} takes reports again."
                    if sent
                    else f"{peer} does not take reports; they wait in {self._folder}."
                )
            failed = not sent
            self._stop.wait(0.5 if sent else 10)

    def _send(self, reports: list[Path]) -> bool:
        from pynetdicom import AE
        from pynetdicom.sop_class import EnhancedSRStorage, SecondaryCaptureImageStorage

        node = AE(ae_title=self._title)
        node.acse_timeout = node.dimse_timeout = node.network_timeout = node.connection_timeout = 20
        for kind in (EnhancedSRStorage, SecondaryCaptureImageStorage):
            node.add_requested_context(kind)
        connection = node.associate(self._peer.host, self._peer.port, ae_title=self._peer.title)
        if not connection.is_established:
            return False
        try:
            for report in reports:
                status = connection.send_c_store(report)
                if "Status" not in status or status.Status != 0:
                    return False
                report.rename(self._folder / "sent" / report.name)
                if self._stop.is_set():
                    break
        except (ValueError, RuntimeError, OSError):
            return False
        finally:
            connection.release()
        return True
