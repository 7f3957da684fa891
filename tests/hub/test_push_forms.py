"""A model in all its forms, pushed over HTTP: five repositories that link each other, Space and page among them.

`make test-space` runs this, with onnx and Node.js, and keeps the Space that came through the Hub for its browser test.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import RepoCard, snapshot_download
from loopback_hub import LoopbackHub
from saved_models import save_with_card
from test_push import files_of, hub  # noqa: F401 - a fixture
from test_round_trip import run_fresh
from tiny_models import tiny_model

from mlcak_hf import MLCAKImageProcessor
from mlcak_hf.deployment.export import deviation, onnx_check
from mlcak_hf.deployment.publish import push_to_hub

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
    (folder / "training_images.json").write_text("MRN 4711")
    return folder


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
        shutil.rmtree(Path(WORK, "findings"), ignore_errors=True)
        snapshot_download("lab/student-space", repo_type="space", local_dir=Path(WORK, "findings"))
