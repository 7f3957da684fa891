"""The DICOM door: a node that accepts radiographs by C-STORE, keeps them on the disk and predicts each once."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
    Verification,
)

from ..errors import DeploymentError, MLCAKError
from ..prediction.reading import Prediction
from .http_door import cannot_listen
from .predict_queue import PredictQueue
from .results import FLUSH_S, Results
from .spool import Spool, SpoolFullError
from .summary import RunningSummary

#: Kinds of DICOM objects that are accepted.
ACCEPTED = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)
_SUCCESS, _OUT_OF_RESOURCES, _CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
_BATCH = 16
_RETRY_S = 5.0


class DicomNode:
    """Listens for C-ECHO and C-STORE from known peers. A success means that the object is on the disk.

    Args:
        spool ([`Spool`]):
            Where objects wait.
        results ([`Results`]):
            What is predicted already.
        summary ([`RunningSummary`]):
            Where refusals are counted.
        address (`tuple[str, int]`):
            Host and port to listen on; port 0 takes a free one.
        title (`str`):
            AE title of this node. Peers must call it by this title.
        allowed (`Sequence[str]`):
            AE titles that may connect.
        max_bytes (`int`, *optional*, defaults to 100 million):
            Largest object. The association of a larger one is aborted as soon as that many bytes have arrived.

    Raises:
        [`DeploymentError`]: When an AE title is not valid, nobody is allowed, or the port cannot be used.
    """

    def __init__(
        self,
        spool: Spool,
        results: Results,
        summary: RunningSummary,
        address: tuple[str, int],
        title: str,
        allowed: Sequence[str],
        max_bytes: int = 100_000_000,
    ) -> None:
        self._spool, self._results, self._summary = spool, results, summary
        self._max_bytes, self._arrived = max_bytes, WeakKeyDictionary[Any, int]()
        for name in (title, *allowed):
            if not re.fullmatch(r"[\x21-\x5b\x5d-\x7e]{1,16}", name):
                raise DeploymentError(f"An AE title must have 1 to 16 ASCII characters without spaces; got {name!r}.")
        if not allowed:
            raise DeploymentError("Name the AE titles that may send to the DICOM node (--allow TITLE).")
        node = AE(ae_title=title)
        node.require_called_aet = True
        node.require_calling_aet = list(allowed)
        node.network_timeout = node.dimse_timeout = 60
        node.maximum_associations = 16
        node.add_supported_context(Verification)
        for kind in ACCEPTED:
            node.add_supported_context(kind, ALL_TRANSFER_SYNTAXES)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_REJECTED, self._note_rejection)]
        handlers.append((evt.EVT_PDU_RECV, self._count))
        try:
            self._server: Any = node.start_server(address, block=False, evt_handlers=handlers)
        except OSError as error:
            raise cannot_listen(*address, error) from error
        self.port: int = self._server.socket.getsockname()[1]

    def close(self) -> None:
        """Stop listening, and end what is connected."""
        self._server.shutdown()

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if not re.fullmatch(r"[0-9.]{1,64}", uid):
            self._summary.turn_away("DICOM: not a valid SOP Instance UID")
            return _CANNOT_UNDERSTAND
        # The same object sent again gets the same name, also if its sender never heard of the success.
        digest = hashlib.sha256(event.encoded_dataset(include_meta=False)).hexdigest()[:16]
        name = f"{uid}_{digest}.dcm"
        if name in self._results:
            return _SUCCESS
        try:
            self._spool.store(name, event.encoded_dataset())
        except SpoolFullError:
            self._summary.turn_away("DICOM: too many objects wait")
            return _OUT_OF_RESOURCES
        except DeploymentError:
            self._summary.turn_away("DICOM: the spool cannot be written")
            return _OUT_OF_RESOURCES
        return _SUCCESS

    def _count(self, event: Any) -> None:
        """Abort an association when its object is too large: without a limit, it would fill the memory."""
        if not isinstance(event.pdu, P_DATA_TF):
            return
        for item in event.pdu.presentation_data_value_items:
            kind, size = item.presentation_data_value[0], len(item.presentation_data_value) - 1
            # Bit 0: part of a command, not of an object. Bit 1: the last part.
            before = self._arrived.get(event.assoc, 0)
            arrived = 0 if kind & 1 else before + size
            self._arrived[event.assoc] = 0 if kind & 2 else arrived
            if before <= self._max_bytes < arrived:
                self._summary.turn_away(f"DICOM: an object of more than {self._max_bytes:,} bytes")
                # In a thread: this one must go on for the association to end.
                threading.Thread(target=event.assoc.abort, daemon=True).start()

    def _note_rejection(self, _event: Any) -> None:
        self._summary.turn_away("DICOM: association rejected, such as for an unknown AE title")


class SpoolWorker:
    """Predicts what is in the spool, in a thread.

    A file is deleted from the spool only when its prediction is in the results, so a kill loses nothing, and what is in
    the results is not predicted again.

    Args:
        spool ([`Spool`]):
            Where objects wait.
        queue ([`PredictQueue`]):
            The model.
        results ([`Results`]):
            Where predictions go.
        summary ([`RunningSummary`]):
            Where they are counted.
        further (`Callable`, *optional*):
            Called with each prediction while its file is there; returns the further columns of its row.
        say (`Callable`, *optional*):
            Called with a sentence when results cannot be written. They are tried again.
    """

    def __init__(
        self,
        spool: Spool,
        queue: PredictQueue,
        results: Results,
        summary: RunningSummary,
        further: Callable[[Prediction], Mapping[str, str | None]] = lambda _: {},
        say: Callable[[str], None] = print,
    ) -> None:
        self._spool, self._queue, self._results, self._summary = spool, queue, results, summary
        self._further, self._say, self._stop = further, say, threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the batch in hand, and stop."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        failed = ""
        while not self._stop.is_set():
            try:
                done = self._predict_batch()
                self._results.flush(FLUSH_S)
                if not done:
                    self._stop.wait(0.1)
                failed = ""
            except MLCAKError as error:
                if str(error) != failed:
                    self._say(str(error))
                failed = str(error)
                self._stop.wait(_RETRY_S)

    def _predict_batch(self) -> int:
        files = self._spool.first(_BATCH)
        waiting = [file for file in files if file.name not in self._results]
        predictions = self._queue.submit(waiting).result()
        further = [self._further(prediction) for prediction in predictions]
        for prediction in predictions:
            prediction.file = Path(f"{prediction.file.name.split('_')[0]}.dcm")
        names = [file.name for file in waiting]
        self._results.add(zip(names, predictions, further, strict=True))
        self._summary.add("DICOM", predictions)
        for file in files:
            self._spool.remove(file)
        return len(files)
