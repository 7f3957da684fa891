"""A model in all its forms, pushed over HTTP: five repositories that link each other, Space and page among them.

`make test-space` runs this, with onnx and Node.js. It keeps the Space that came through the Hub, files that cannot be
used and what is expected in the folder MLCAK_SPACE_WORK, for tests/browser/space.test.js.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import RepoCard
from loopback_hub import LoopbackHub
from saved_models import save_with_card
from test_push import files_of, hub  # noqa: F401 - a fixture
from test_round_trip import run_fresh
from tiny_models import tiny_model

from mlcak_hf import MLCAKImageProcessor, OnnxPredictor
from mlcak_hf.deployment.export import deviation, onnx_check
from mlcak_hf.deployment.publish import push_to_hub
from mlcak_hf.phantoms.render import render_phantom
from mlcak_hf.trust.operating_points import LabelPoints, OperatingPoint, OperatingPoints, PointTargets
from mlcak_hf.weights import weights_digest

REASON = "ONNX OR NODE.JS MISSING, so that NO PUSH OF ALL FORMS IS TESTED: run `make test-space`"
pytest.importorskip("onnxscript", reason=REASON)
pytest.importorskip("onnxruntime", reason=REASON)
if not (shutil.which("node") and shutil.which("npm")):
    pytest.skip(REASON, allow_module_level=True)

WORK = os.environ.get("MLCAK_SPACE_WORK")
KINDS = {"": ("model", None), "-vit": ("model", None), "-onnx": ("model", None)}
KINDS |= {"-space": ("space", "gradio"), "-browser": ("space", "static")}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(deviation, "PHANTOMS", 1)
    monkeypatch.setattr(onnx_check, "PHANTOMS", 2)
    model = tiny_model(backbone={"image_size": 28, "patch_size": 4})
    folder = save_with_card(model, MLCAKImageProcessor(size={"height": 28, "width": 28}), tmp_path / "findings-28")
    labels = {"global/Abnormal": LabelPoints(20, 30, youden=OperatingPoint(0.25, 0.9, 0.8))}
    points = OperatingPoints(weights_digest(folder), "d", "validation", 50, PointTargets(), labels, {"global": 2.0})
    points.save(folder)
    (folder / "training_images.json").write_text("MRN 4711")
    return folder


def keep_for_the_browser(space: dict[str, bytes], work: Path) -> None:
    """Write the Space that the Hub has, predict its examples, and write files that cannot be used."""
    shutil.rmtree(work, ignore_errors=True)
    for name, content in space.items():
        (work / "app" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "app" / name).write_bytes(content)
    predictor, expected = OnnxPredictor(work / "app"), {}
    for prediction in predictor.predict(sorted((work / "app" / "examples").iterdir())):
        shown = prediction.probabilities | prediction.findings
        decision = prediction.decisions["global/Abnormal"].decision or "not decided"
        expected[prediction.file.name] = {
            "probabilities": {name: f"{value:.3f}" for name, value in shown.items()},
            "decision": decision,
            "warning": prediction.warning,
        }
    (work / "expected.json").write_text(json.dumps(expected))
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "browser"))
    from prepare import write_bad

    (work / "bad").mkdir()
    write_bad(work / "bad", np.clip(render_phantom(seed=4, index=0, size_px=300).pixels, 0, 1))


@pytest.mark.timeout(900)  # exports, builds and two fresh processes
def test_five_repositories_link_each_other_and_hold_no_data(
    hub: LoopbackHub,  # noqa: F811
    folder: Path,
    tmp_path: Path,
) -> None:
    names = [f"lab/student{suffix}" for suffix in KINDS]
    pushed = push_to_hub(folder, "lab/student", forms=["page", "space", "onnx", "vit"])
    assert list(pushed) == names
    assert {name: (found.kind, found.sdk) for name, found in hub.repositories.items()} == dict(
        zip(names, KINDS.values(), strict=True)
    )
    assert {found.visibility for found in hub.repositories.values()} == {"private"}
    for name in names:
        card = RepoCard(files_of(hub, name)["README.md"].decode())
        kind = "spaces/" if hub.repositories[name].kind == "space" else ""
        assert all(f"[{other}]({hub.url}/" in card.content for other in names)
        assert (f"/lab/student/tree/{pushed['lab/student'].oid}" in card.content) == (name != "lab/student")
        if kind:
            assert card.data.to_dict()["models"] == names[:3]
        elif name != "lab/student":
            assert card.data.base_model == "lab/student"
        assert not [file for file, content in files_of(hub, name).items() if b"MRN 4711" in content]
    assert "training_images.json" not in hub.offered
    assert {"app.py", "model.onnx", "requirements.txt", "style.css"} <= set(files_of(hub, "lab/student-space"))
    assert {"index.html", "model/model.onnx"} <= set(files_of(hub, "lab/student-browser"))

    onnx_id, commit = "lab/student-onnx", pushed["lab/student-onnx"].oid
    phantom = "examples/phantom-3.png"
    (tmp_path / "phantom.png").write_bytes(files_of(hub, "lab/student-space")[phantom])
    image = str(tmp_path / "phantom.png")
    done = run_fresh("predict_from_hub.py", onnx_id, commit, image, hub=hub, home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    twin = run_fresh("load_a_twin.py", "lab/student-vit", pushed["lab/student-vit"].oid, image, hub=hub,
                     home=tmp_path / "home")  # fmt: skip
    assert twin.returncode == 0, twin.stderr
    assert json.loads(done.stdout) == pytest.approx(json.loads(twin.stdout), abs=0.05)  # the twin resizes by Pillow
    if WORK:
        keep_for_the_browser(files_of(hub, "lab/student-space"), Path(WORK))
