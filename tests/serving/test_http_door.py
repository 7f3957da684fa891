"""The HTTP door: right answers, one clear sentence for everything else, and it stays up."""

from __future__ import annotations

import base64
import io
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx  # the HTTP client of huggingface_hub
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="fastapi is missing, so that THE HTTP DOOR IS NOT TESTED: make test-serving")

from mlcak_hf.errors import DeploymentError
from mlcak_hf.serving.http_door import HttpServer, UploadLimits, build_app
from mlcak_hf.serving.predict_queue import PredictQueue
from mlcak_hf.serving.summary import RunningSummary

LIMIT = 2_000_000


class Door:
    def __init__(self, predictor, places=8, timeout_s=20.0):
        self.queue, self.summary = PredictQueue(predictor, places), RunningSummary(predictor)
        self.server = HttpServer(build_app(self.queue, self.summary, UploadLimits(LIMIT, timeout_s)), "127.0.0.1", 0)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.server.port}", timeout=30, trust_env=False)

    def send(self, content: bytes, name: str = "DOE^JANE.dcm", **options):
        return self.client.post("/predict", files={"file": (name, content)}, **options)

    def close(self):
        self.client.close()
        self.server.close()
        self.queue.close()


@pytest.fixture(scope="module")
def door(predictor):
    door = Door(predictor)
    yield door
    door.close()


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "png")
    return stream.getvalue()


def test_the_answer_is_what_the_predictor_says(door: Door, predictor, chests: list[Path]) -> None:
    for file in chests[:3]:
        (expected,) = predictor.predict([file])
        answer = door.send(file.read_bytes()).json()
        assert {row["label"]: row["score"] for row in answer["predictions"]} == expected.probabilities
        assert answer["predictions"][0]["score"] >= answer["predictions"][1]["score"]
        assert answer["findings"] == expected.findings
        assert answer["warning"] == expected.warning
        assert answer["heatmap"] is None


def test_an_exported_model_answers_like_the_original(predictor, chests: list[Path], exported: Path) -> None:
    from mlcak_hf.cli.runtimes import load_any_predictor

    (expected,) = predictor.predict([chests[0]])
    door = Door(load_any_predictor(str(exported)))
    try:
        answer = door.send(chests[0].read_bytes()).json()
    finally:
        door.close()
    found = {row["label"]: row["score"] for row in answer["predictions"]}
    assert found == pytest.approx(expected.probabilities, abs=1e-5)
    assert answer["findings"] == pytest.approx(expected.findings, abs=1e-5)


def test_a_heatmap_is_a_picture_in_the_answer(door: Door, chests: list[Path]) -> None:
    answer = door.send(chests[0].read_bytes(), params={"heatmap": "true"}).json()
    assert Image.open(io.BytesIO(base64.b64decode(answer["heatmap"]))).size[0] > 500


def test_png_and_jpeg_are_predicted_and_black_is_refused(door: Door, chests: list[Path]) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (80, 80), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "jpeg")
    assert door.send(png(grey)).status_code == door.send(stream.getvalue()).status_code == 200
    black = door.send(png(np.zeros((80, 80), np.uint8)))
    assert black.status_code == 200
    assert black.json()["predictions"] == []
    assert "no usable contrast" in black.json()["refused_because"]


def bomb() -> bytes:
    """A PNG of a few bytes that declares 400 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (b"", 415, "The file is empty"),
        (b"<!DOCTYPE html><html>", 415, "an HTML page"),
        (b"PK\x03\x04" + bytes(200), 415, "it is a ZIP file"),
        (b"plain text " * 20, 415, "it is a text file"),
        (bytes(128) + b"DICM" + bytes(500), 422, "Transfer Syntax UID is missing"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), 422, "Cannot read this PNG"),
        (bomb(), 422, "at most 60,000,000 pixels"),
        (b"\x89PNG\r\n\x1a\n" + bytes(LIMIT + 70_000), 413, "at most 2,000,000 bytes"),
    ],
)  # fmt: skip
def test_a_bad_file_is_one_clear_sentence(door: Door, content: bytes, status: int, sentence: str) -> None:
    answer = door.send(content)
    assert answer.status_code == status
    assert sentence in answer.json()["detail"]
    assert "DOE" not in answer.text
    assert door.client.get("/health").json()["status"] == "ok"


def test_a_request_without_the_file_says_how_to_send_it(door: Door) -> None:
    answer = door.client.post("/predict", json={"image": "?"})
    assert answer.status_code == 422
    assert "form field `file`" in answer.json()["detail"]


def test_an_endless_upload_ends_at_the_limit(door: Door) -> None:
    """Without a length, as curl sends a pipe; 4 GB would follow."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    sent = 0

    def parts():
        nonlocal sent
        yield head
        for _ in range(4000):
            sent += 1_000_000
            yield bytes(1_000_000)

    try:
        answer = door.client.post(
            "/predict", content=parts(), headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
        assert answer.status_code == 413
    except httpx.TransportError:
        pass  # the connection was closed before all was sent
    assert sent < 200_000_000
    assert any(reason.startswith("HTTP 413") for reason in door.summary.as_dict()["turned_away"])
    assert door.client.get("/health").status_code == 200


class SlowPredictor:
    """Waits until it is let go."""

    def __init__(self, predictor):
        self.global_labels, self.safeguards = predictor.global_labels, predictor.safeguards
        self.provenance = predictor.provenance
        self.predict_now, self.go = predictor.predict, threading.Event()

    def predict(self, files, **options):
        self.go.wait(20)
        return self.predict_now(files, **options)


def test_when_all_places_are_taken_more_are_refused_and_none_is_lost(predictor, chests: list[Path]) -> None:
    slow = SlowPredictor(predictor)
    door, content = Door(slow, places=2), chests[0].read_bytes()
    try:
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(door.send, content) for _ in range(2)]
            while door.queue.reserve():  # until both have their places
                door.queue.release()
                time.sleep(0.01)
            refused = door.send(content)
            slow.go.set()
            assert [answer.result().status_code for answer in waiting] == [200, 200]
        assert refused.status_code == 429
        assert refused.headers["retry-after"]
        assert "places are taken" in refused.json()["detail"]
        assert door.send(content).status_code == 200
    finally:
        door.close()


def test_a_prediction_that_takes_too_long_is_given_up(predictor, chests: list[Path]) -> None:
    slow = SlowPredictor(predictor)
    door = Door(slow, timeout_s=0.3)
    try:
        answer = door.send(chests[0].read_bytes())
        assert answer.status_code == 503
        assert "longer than 0.3 s" in answer.json()["detail"]
    finally:
        slow.go.set()
        door.close()


def test_a_crash_in_the_model_is_an_answer_and_the_server_stays_up(predictor, chests, monkeypatch) -> None:
    door = Door(predictor)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(type(predictor), "predict", lambda *_, **__: 1 / 0)
            answer = door.send(chests[0].read_bytes())
        assert answer.status_code == 422
        assert "ZeroDivisionError" in answer.json()["detail"]
        assert door.send(chests[0].read_bytes()).status_code == 200
    finally:
        door.close()


def test_a_full_disk_is_a_clear_answer(door: Door, chests: list[Path], monkeypatch) -> None:
    import errno
    import shutil

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        answer = door.send(chests[0].read_bytes())
    assert answer.status_code == 503
    assert "its disk is full" in answer.json()["detail"]


def test_a_port_in_use_is_one_sentence(door: Door) -> None:
    with pytest.raises(DeploymentError, match=rf"Port {door.server.port} of 127.0.0.1 is in use\. Choose another"):
        HttpServer(None, "127.0.0.1", door.server.port)


def test_pages_need_no_other_server_and_another_host_name_is_refused(door: Door) -> None:
    for page in ("/", "/summary"):
        text = door.client.get(page).text
        assert "Research use only" in text
        assert "://" not in text.replace("http://HOST:PORT", "").replace("http://www.w3.org/2000/svg", "")
    paths = door.client.get("/openapi.json").json()["paths"]
    assert {"/predict", "/health", "/summary"} <= set(paths)
    assert door.client.get("/summary", headers={"Host": "evil.example"}).status_code == 400


def test_the_server_listens_on_loopback_only(door: Door) -> None:
    assert door.server._socket.getsockname()[0] == "127.0.0.1"
