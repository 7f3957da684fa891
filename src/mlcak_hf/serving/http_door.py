"""The HTTP door: `POST /predict` with limits, `/health`, `/summary` and an OpenAPI description."""

from __future__ import annotations

import asyncio
import errno
import shutil
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import HTMLResponse, JSONResponse

from ..errors import DeploymentError
from ..prediction.onnx_metadata import RESEARCH_NOTICE
from ..prediction.reading import Prediction
from ..radiographs.png_jpeg import SIGNATURES
from ..radiographs.read import DICOM_HEAD_BYTES, why_not_dicom
from ..shipped import hub_configs_dir
from .answers import answer
from .predict_queue import PredictQueue
from .summary import RunningSummary

_Upload = Annotated[UploadFile, File(description="A DICOM, PNG or JPEG file")]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_FORM_BYTES = 64 * 1024  # what a form adds to its file
_STOP_S = 10


@dataclass(frozen=True)
class UploadLimits:
    """Limits of one request.

    Args:
        max_bytes (`int`, *optional*, defaults to 100,000,000):
            Largest file.
        timeout_s (`float`, *optional*, defaults to 30.0):
            How long an upload may pause, and how long a file may wait for its prediction, in seconds.
    """

    max_bytes: int = 100_000_000
    timeout_s: float = 30.0


def build_app(queue: PredictQueue, summary: RunningSummary, limits: UploadLimits, loopback: bool = True) -> Any:
    """Return the application.

    Args:
        queue ([`PredictQueue`]):
            The model.
        summary ([`RunningSummary`]):
            Where requests are counted.
        limits ([`UploadLimits`]):
            Limits of one request.
        loopback (`bool`, *optional*, defaults to `True`):
            Whether only names of this machine are valid host names, so that no web page can read the answers.

    Returns:
        `fastapi.FastAPI`: The application.
    """
    # FastAPI's own pages of documentation load scripts from another server.
    app = FastAPI(title="mlcak", description=RESEARCH_NOTICE, docs_url=None, redoc_url=None)

    async def predict(file: _Upload, heatmap: bool = False) -> dict[str, Any]:
        """Predict one DICOM, PNG or JPEG file. With `heatmap=true`, also return what the model attended to."""
        with tempfile.TemporaryDirectory(prefix="mlcak-") as folder:
            path = await _stored(file, Path(folder))
            (prediction,) = await _predicted(queue, path, heatmap, limits.timeout_s)
            summary.add("HTTP", [prediction])
            if prediction.error:
                raise HTTPException(422, prediction.error)
            return answer(prediction, queue.predictor.provenance)

    def health() -> dict[str, str]:
        """Say that the server works, and with which model."""
        return {"status": "ok", **queue.predictor.provenance}

    def show_summary() -> HTMLResponse:
        return HTMLResponse(summary.page())

    def start_page() -> HTMLResponse:
        page = (hub_configs_dir() / "templates" / "serving_start.html").read_text(encoding="utf-8")
        return HTMLResponse(page.replace("{{ megabytes }}", f"{limits.max_bytes / 1e6:.0f}"))

    problems = {413: "Too large", 415: "Another kind of file", 422: "Unreadable", 429: "Too many", 503: "Busy"}
    described: Any = {status: {"description": text} for status, text in problems.items()}
    app.add_api_route("/predict", predict, methods=["POST"], responses=described)
    app.add_api_route("/health", health)
    app.add_api_route("/summary", show_summary, response_class=HTMLResponse)
    app.add_api_route("/summary.json", summary.as_dict)
    app.add_api_route("/", start_page, response_class=HTMLResponse, include_in_schema=False)
    app.add_exception_handler(HTTPException, _counted_refusal(summary))
    app.add_exception_handler(RequestValidationError, _explained_form)
    app.add_middleware(_Gate, queue=queue, summary=summary, limits=limits)
    if loopback:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]"])
    return app


async def _stored(file: UploadFile, folder: Path) -> Path:
    head = await file.read(DICOM_HEAD_BYTES)
    if not head.startswith(SIGNATURES) and head[-4:] != b"DICM":
        raise HTTPException(415, why_not_dicom(head))
    await file.seek(0)
    path = folder / "upload"  # not the name that the client gave: it may name a patient
    try:
        with path.open("wb") as stream:
            await asyncio.to_thread(shutil.copyfileobj, file.file, stream)
    except OSError as error:
        raise _unavailable(error) from None
    return path


async def _predicted(queue: PredictQueue, path: Path, heatmap: bool, timeout_s: float) -> list[Prediction]:
    future = queue.submit([path], path.with_name("heatmaps") if heatmap else None)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)
    except (TimeoutError, asyncio.TimeoutError):
        raise _busy(f"The prediction took longer than {timeout_s:g} s. Try again later.", 503) from None


def _unavailable(error: OSError) -> HTTPException:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return _busy(f"The server cannot store the file{': its disk is full' if full else ''}. Try again later.", 503)


def _busy(sentence: str, status: int) -> HTTPException:
    return HTTPException(status, sentence, headers={"Retry-After": "5"})


def _counted_refusal(summary: RunningSummary) -> Callable[[Request, Any], JSONResponse]:
    def handle(_request: Request, error: Any) -> JSONResponse:
        if isinstance(error.__cause__, OSError):  # FastAPI calls a full disk an error of the form
            error = _unavailable(error.__cause__)
        if error.status_code not in (404, 405, 422):
            summary.turn_away(f"HTTP {error.status_code}: {error.detail}")
        return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)

    return handle


def _explained_form(_request: Request, _error: Any) -> JSONResponse:
    sentence = "Send the radiograph as the file of the form field `file`, as in curl -F file=@chest.dcm."
    return JSONResponse({"detail": sentence}, 422)


class _Gate:
    """Refuses a request before its body is read if no place is free, and one that is too large at the limit."""

    def __init__(self, app: Any, queue: PredictQueue, summary: RunningSummary, limits: UploadLimits) -> None:
        self._app, self._queue, self._summary, self._limits = app, queue, summary, limits

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http" or (scope["path"], scope["method"]) != ("/predict", "POST"):
            await self._app(scope, receive, send)
            return
        refusal = self._too_large(scope)
        if refusal is None and not self._queue.reserve():
            refusal = _busy(f"All {self._queue.places} places are taken. Try again later.", 429)
        if refusal is not None:
            handle = _counted_refusal(self._summary)
            await handle(Request(scope), refusal)(scope, receive, send)
            return
        try:
            await self._app(scope, self._limited(receive), send)
        finally:
            self._queue.release()

    def _too_large(self, scope: _Message) -> HTTPException | None:
        length = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = length.isdigit() and int(length) > self._limits.max_bytes + _FORM_BYTES
        return self._refusal() if too_large else None

    def _refusal(self) -> HTTPException:
        sentence = f"A file may have at most {self._limits.max_bytes:,} bytes. Send one radiograph."
        # Closed, so that the rest of the upload does not have to arrive.
        return HTTPException(413, sentence, headers={"Connection": "close"})

    def _limited(self, receive: _Receive) -> _Receive:
        received = 0

        async def limited() -> _Message:
            nonlocal received
            try:
                message = await asyncio.wait_for(receive(), self._limits.timeout_s)
            except (TimeoutError, asyncio.TimeoutError):
                sentence = f"The upload paused for {self._limits.timeout_s:g} s. Send it again."
                raise HTTPException(408, sentence, headers={"Connection": "close"}) from None
            received += len(message.get("body", b""))
            if received > self._limits.max_bytes + _FORM_BYTES:
                raise self._refusal()
            return message

        return limited


class HttpServer:
    """Runs an application in a thread.

    Args:
        app:
            As from [`build_app`].
        host (`str`), port (`int`):
            Where to listen; port 0 takes a free one.

    Raises:
        [`DeploymentError`]: When the port is in use or may not be used.
    """

    def __init__(self, app: Any, host: str, port: int) -> None:
        self._socket = listening_socket(host, port)
        self.port: int = self._socket.getsockname()[1]
        # No access log: an address may name a person.
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=_STOP_S,
            timeout_keep_alive=5, backlog=128,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="http", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the thread of the server is alive."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Answer what has begun, and stop."""
        self._server.should_exit = True
        self._thread.join(_STOP_S + 5)
        self._socket.close()


def listening_socket(host: str, port: int) -> socket.socket:
    """Bind a socket, and say in one sentence why it cannot be done.

    Raises:
        [`DeploymentError`]: When the port is in use or may not be used, or there is no such host name.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise cannot_listen(host, port, error) from error
    return bound


def cannot_listen(host: str, port: int, error: OSError) -> DeploymentError:
    """Say in one sentence why a server cannot listen, and what to do."""
    reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror or error})"
    return DeploymentError(f"Port {port} of {host} {reason}. Choose another, or stop the program that uses it.")
