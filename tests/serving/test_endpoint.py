"""The handler of an Inference Endpoint, asked by the real client over loopback. No hosted endpoint is involved."""

from __future__ import annotations

import base64
import importlib
import io
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import InferenceClient, constants
from huggingface_hub.errors import BadRequestError
from PIL import Image

pytest.importorskip("onnxruntime", reason="onnxruntime is missing, so THE ENDPOINT IS NOT TESTED: make test-serving")
pytest.importorskip("onnx", reason="onnx is missing, so THE ENDPOINT IS NOT TESTED: make test-serving")

import onnx

from mlcak_hf.deployment.export.onnx_program import write_program
from mlcak_hf.prediction.onnx_metadata import METADATA_KEY, OnnxMetadata
from mlcak_hf.prediction.onnx_predictor import OnnxPredictor
from mlcak_hf.serving.answers import answer

SIZE = 28


def model_file() -> bytes:
    """A graph that looks at the mean grey value: logits (-4, 4) times it; attention is the image in 7 x 7 patches."""
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        helper.make_node("AveragePool", ["pixel_values"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Squeeze", ["pooled", "axes"], ["attention"]),
    ]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("pixel_values", numbers, ["batch", 1, SIZE, SIZE])],
        [
            helper.make_tensor_value_info("logits", numbers, ["batch", 2]),
            helper.make_tensor_value_info("attention", numbers, ["batch", 7, 7]),
        ],
        [
            onnx.numpy_helper.from_array(np.array([[-4.0, 4.0]], np.float32), "weight"),
            onnx.numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    metadata = OnnxMetadata(
        part="model", model="grey", weights="0" * 64, mlcak_version="0", global_labels=["Normal", "Abnormal"],
        local_labels=[], unlearned_findings=[], problem_type="single_label_classification", size_px=SIZE, fit="pad",
        lowres=None, voi="dicom", image_mean=[0.0], image_std=[1.0],
    )  # fmt: skip
    helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    return model.SerializeToString()


class Endpoint:
    """A server as the documentation of Inference Endpoints describes it.

    Pictures become RGB images of 8 bits; JSON is passed on. Some versions also decode a text in `inputs` as a picture.
    """

    def __init__(self, handler, decodes_text: bool) -> None:
        class Requests(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                try:
                    if self.headers["Content-Type"].startswith("image/"):
                        data = {"inputs": Image.open(io.BytesIO(body)).convert("RGB")}
                    elif self.headers["Content-Type"].startswith("application/json"):
                        data = json.loads(body)
                        if decodes_text and isinstance(data["inputs"], str):
                            picture = Image.open(io.BytesIO(base64.b64decode(data["inputs"])))
                            data["inputs"] = picture.convert("RGB")
                    else:
                        raise ValueError(f"Content type {self.headers['Content-Type']} is not supported.")
                    status, result = 200, handler(data)
                except Exception as error:
                    status, result = 400, {"error": str(error)}
                content = json.dumps(result).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def ask(self, inputs: object, **parameters: object):
        data = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
        request = urllib.request.Request(self.url, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answered:
                return json.load(answered)
        except urllib.error.HTTPError as error:
            return json.load(error)["error"] if error.code == 400 else error.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("endpoint")
    write_program(folder)
    (folder / "model.onnx").write_bytes(model_file())
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["text as it is", "text as a picture"])
def endpoint(request, folder: Path):
    sys.path.insert(0, str(folder))
    handler = importlib.import_module("handler").EndpointHandler(str(folder))
    sys.path.remove(str(folder))
    endpoint = Endpoint(handler, request.param)
    endpoint.decodes_text = request.param
    yield endpoint
    endpoint.server.shutdown()


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    rows = np.linspace(60, 200, 90, dtype=np.uint8)[:, None].repeat(90, axis=1)
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(rows).save(path)
    return path


@pytest.fixture(autouse=True)
def loopback_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client refuses every request while the tests are offline; here, it asks this machine only."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def base64_of(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def test_the_client_gets_labels_and_scores_of_a_picture(endpoint, folder, picture) -> None:
    (expected,) = OnnxPredictor(folder).predict([picture])
    found = InferenceClient(model=endpoint.url).image_classification(str(picture))
    assert [row.label for row in found] == ["Abnormal", "Normal"]
    assert {row.label: row.score for row in found} == pytest.approx(expected.probabilities, abs=1e-6)
    (first,) = InferenceClient(model=endpoint.url).image_classification(str(picture), top_k=1)
    assert first.label == "Abnormal"


def test_dicom_in_base64_gives_what_the_predictor_says(endpoint, folder, chests) -> None:
    for file in chests[:3]:
        (expected,) = OnnxPredictor(folder).predict([file])
        found = endpoint.ask({"dicom": base64_of(file)})
        assert {row["label"]: row["score"] for row in found} == pytest.approx(expected.probabilities, abs=1e-6)
        as_text = endpoint.ask(base64_of(file))
        assert ("cannot identify" in as_text) if endpoint.decodes_text else (as_text == found)


def test_details_are_the_answer_of_the_server(endpoint, folder, chests) -> None:
    (expected,) = OnnxPredictor(folder).predict([chests[0]])
    found = endpoint.ask({"dicom": base64_of(chests[0])}, findings=True)
    assert found == json.loads(json.dumps(answer(expected, OnnxPredictor(folder).provenance)))
    drawn = endpoint.ask({"dicom": base64_of(chests[0])}, heatmap=True)["heatmap"]
    assert Image.open(io.BytesIO(base64.b64decode(drawn))).format == "PNG"


def test_a_refused_image_is_an_error_and_in_the_whole_answer_a_reason(endpoint, tmp_path) -> None:
    Image.new("L", (80, 80)).save(tmp_path / "black.png")
    inputs = {"image": base64_of(tmp_path / "black.png")}
    assert endpoint.ask(inputs).startswith("Refused: The image has no usable contrast")
    assert "no usable contrast" in endpoint.ask(inputs, decisions=True)["refused_because"]
    with pytest.raises(BadRequestError, match="no usable contrast"):
        InferenceClient(model=endpoint.url).image_classification(str(tmp_path / "black.png"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "The file is empty"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (b"PK\x03\x04" + bytes(200), "it is a ZIP file"),
        (bytes(128) + b"DICM" + bytes(500), "Transfer Syntax UID is missing"),
        (bytes(50_000_001), "at most 50,000,000 bytes"),
    ],
    ids=["empty", "html", "zip", "cut off", "too large"],
)
def test_a_bad_file_is_one_sentence(endpoint, content: bytes, sentence: str) -> None:
    assert sentence in endpoint.ask({"dicom": base64.b64encode(content).decode()})


def test_a_bad_request_is_one_sentence(endpoint, picture) -> None:
    inputs = {"image": base64_of(picture)}
    assert "must be a picture, or a DICOM" in endpoint.ask({"pixels": 1})
    assert "file in base64; got another text" in endpoint.ask({"dicom": "no base64!"})
    assert "got temperature" in endpoint.ask(inputs, temperature=2)
    assert "at least 1; got 0" in endpoint.ask(inputs, top_k=0)
    assert "operating_point must be" in endpoint.ask(inputs, operating_point="best")


def test_the_folder_works_without_torch_and_this_package(folder: Path, picture: Path) -> None:
    code = (
        "import sys, handler, mlcak_hf; from PIL import Image\n"
        f"print(handler.EndpointHandler()({{'inputs': Image.open({str(picture)!r})}})[0]['label'])\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules, mlcak_hf.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env={"PATH": ""}, capture_output=True, text=True)
    assert done.stdout.split() == ["Abnormal", "False", "False", str(folder / "mlcak_hf" / "__init__.py")], done.stderr
