"""A model and its stock twin, pushed by the real client to the loopback Hub; what goes wrong is said in a sentence."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import RepoCard, constants
from loopback_hub import LoopbackHub, Repository, running_hub
from PIL import Image
from saved_models import save_with_card
from test_round_trip import run_fresh
from tiny_models import tiny_model
from transformers import AutoImageProcessor, AutoModelForImageClassification
from typer.testing import CliRunner

from mlcak_hf import MLCAKImageProcessor
from mlcak_hf.cli.main import app
from mlcak_hf.deployment.export import deviation
from mlcak_hf.deployment.publish import push_to_hub
from mlcak_hf.errors import DeploymentError, MLCAKError

TOKEN = "hf_of_the_test"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LoopbackHub]:
    """A Hub that this process is logged in to."""
    with running_hub() as hub:
        hub.token = TOKEN
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield hub


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "student-28"
    model = tiny_model(backbone={"image_size": 28, "patch_size": 4})
    save_with_card(model, MLCAKImageProcessor(size={"height": 28, "width": 28}), folder)
    for name in ("training_images.json", "training.json", "predictions.csv", "0002.dicom"):
        (folder / name).write_text("MRN 4711")
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(deviation, "PHANTOMS", 1)
    monkeypatch.setattr(deviation, "_PHANTOM_PX", 96)
    return shutil.copytree(saved, tmp_path / "student-28")


def files_of(hub: LoopbackHub, repo_id: str) -> dict[str, bytes]:
    repository = hub.repositories[repo_id]
    return repository.commits[repository.refs["main"]]


def commits_of(hub: LoopbackHub, repo_id: str) -> int:
    return len(hub.repositories[repo_id].commits) - 1  # without the empty first one


def test_a_model_and_its_twin_link_each_other_and_no_data_goes_with_them(hub: LoopbackHub, folder: Path) -> None:
    pushed = push_to_hub(folder, "lab/student-28", forms=["vit"])
    assert {name: (found.visibility, found.kind) for name, found in hub.repositories.items()} == dict.fromkeys(
        ["lab/student-28", "lab/student-28-vit"], ("private", "model")
    )
    cards = {name: RepoCard(files_of(hub, name)["README.md"].decode()) for name in pushed}
    for card in cards.values():
        assert all(f"[{name}]({hub.url}/{name})" in card.content for name in pushed)
    twin = cards["lab/student-28-vit"]
    assert f"{hub.url}/lab/student-28/tree/{pushed['lab/student-28'].oid}" in twin.content
    assert twin.data.base_model == "lab/student-28"
    assert 'model="lab/student-28-vit"' in twin.content
    assert not [name for name in files_of(hub, "lab/student-28-vit") if name.endswith(".py")]
    # Nothing of a patient was even announced.
    assert not hub.offered & {"training_images.json", "training.json", "predictions.csv", "0002.dicom"}
    for name in pushed:
        assert not [file for file, content in files_of(hub, name).items() if b"MRN 4711" in content]


@pytest.mark.slow
def test_the_twin_loads_at_its_commit_in_a_fresh_process_without_the_package(
    hub: LoopbackHub, folder: Path, tmp_path: Path
) -> None:
    commit = push_to_hub(folder, "lab/student-28", forms=["vit"])["lab/student-28-vit"].oid
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224), dtype=np.uint8))
    image.save(tmp_path / "image.png")
    original = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        output = original(**AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt"))
    expected = torch.cat([output.logits.softmax(-1), output.local_logits.sigmoid()], -1)[0].tolist()
    labels = [*original.config.global_labels, *original.config.local_labels]
    hub.repositories["lab/student-28-vit"].commit("main", {"config.json": b"{}"})  # a later state, which must not load
    done = run_fresh(
        "load_a_twin.py", "lab/student-28-vit", commit, str(tmp_path / "image.png"), hub=hub, home=tmp_path / "home"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == pytest.approx(dict(zip(labels, expected, strict=True)), abs=1e-4)


def test_a_short_break_is_bridged_by_the_client(hub: LoopbackHub, folder: Path) -> None:
    hub.breaks_at, hub.breaks = "/lab/student-28/commit/main", 1
    assert push_to_hub(folder, "lab/student-28")
    assert commits_of(hub, "lab/student-28") == 1


def test_after_a_broken_connection_the_same_command_goes_on(
    hub: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # the client waits 23 s
    hub.breaks_at, hub.breaks = "/lab/student-28-vit/commit/main", 99
    with pytest.raises(DeploymentError, match=r"-vit was not uploaded: .*Uploaded so far: lab/student-28\. Run the sa"):
        push_to_hub(folder, "lab/student-28", forms=["vit"])
    assert (commits_of(hub, "lab/student-28"), commits_of(hub, "lab/student-28-vit")) == (1, 0)
    hub.breaks = 0
    pushed = push_to_hub(folder, "lab/student-28", forms=["vit"])
    assert (commits_of(hub, "lab/student-28"), commits_of(hub, "lab/student-28-vit")) == (1, 1)
    assert pushed["lab/student-28"].oid == hub.repositories["lab/student-28"].refs["main"]


@pytest.mark.parametrize(("token", "said"), [(None, "this machine has no token"), ("hf_old", "does not accept the")])
def test_without_a_valid_token_nothing_is_uploaded(
    hub: LoopbackHub, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(DeploymentError, match=rf"{said}.*Nothing was uploaded\. Run `hf auth login`"):
        push_to_hub(folder, "lab/student-28")
    assert not hub.repositories


def test_a_repository_that_holds_something_else_is_refused(hub: LoopbackHub, folder: Path) -> None:
    other = hub.repositories["lab/student-28-vit"] = Repository("public")
    other.commit("main", {"README.md": b"---\ntags: [cats]\n---\n", "cats.safetensors": b"meow"})
    with pytest.raises(DeploymentError, match="lab/student-28-vit exists and holds something else"):
        push_to_hub(folder, "lab/student-28", forms=["vit"])
    assert list(hub.repositories) == ["lab/student-28-vit"]
    assert commits_of(hub, "lab/student-28-vit") == 1


def test_old_weights_do_not_stay_beside_new_ones(hub: LoopbackHub, folder: Path) -> None:
    ours = hub.repositories["lab/student-28"] = Repository("public")
    old = {"README.md": b"---\ntags: [mlcak]\n---\n", "model-00001-of-00002.safetensors": b"old", "notes.md": b"mine"}
    ours.commit("main", {**old, "reference.npz": b"of the old weights"})
    push_to_hub(folder, "lab/student-28")
    assert "notes.md" in files_of(hub, "lab/student-28")
    assert not {"model-00001-of-00002.safetensors", "reference.npz"} & set(files_of(hub, "lab/student-28"))
    assert ours.visibility == "public"


def test_a_repository_made_on_the_website_counts_as_new(hub: LoopbackHub, folder: Path) -> None:
    made = hub.repositories["lab/student-28"] = Repository("private")
    made.commit("main", {".gitattributes": b"", "README.md": b"---\nlicense: mit\n---\n"})
    push_to_hub(folder, "lab/student-28")
    assert "model.safetensors" in files_of(hub, "lab/student-28")


def test_a_card_without_results_is_pushed_with_a_warning(
    hub: LoopbackHub, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        push_to_hub(folder, "lab/student-28")
    assert "holds no measured results. Measure some first: `mlcak evaluate`" in caplog.text
    assert "Not measured" in files_of(hub, "lab/student-28")["README.md"].decode()


@pytest.mark.parametrize("header", ["", "---\n: [\n---\n", "---\nmodel-index: 5\n---\n"])
def test_a_card_that_the_hub_cannot_read_is_refused(hub: LoopbackHub, folder: Path, header: str) -> None:
    (folder / "README.md").write_text(f"{header}# A model\n")
    if not header:  # a card without a header is allowed
        assert push_to_hub(folder, "lab/student-28")
        return
    with pytest.raises(DeploymentError, match=r"README\.md must begin with a header in YAML"):
        push_to_hub(folder, "lab/student-28")
    assert not hub.repositories


def test_a_dry_run_writes_every_folder_and_asks_the_hub_nothing(hub: LoopbackHub, folder: Path, tmp_path: Path) -> None:
    options = ["push", str(folder), "lab/student-28", "--with", "vit", "--dry-run", str(tmp_path / "out")]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    assert not hub.requests
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"student-28", "student-28-vit"}
    assert not (tmp_path / "out" / "student-28" / "training_images.json").exists()
    assert "lab/student-28-vit (model), in" in done.output
    assert "model.safetensors" in done.output
    assert "Nothing was uploaded." in done.output
    assert (tmp_path / "out" / "student-28" / "README.md").read_text().count("The same model in other forms") == 1


@pytest.mark.parametrize(
    ("repo_id", "options", "said"),
    [
        ("student", {}, "must be named owner/name; got 'student'"),
        ("lab/--x", {}, "was not uploaded"),
        ("lab/x", {"forms": ["page"], "revision": "trial"}, "A Space runs its main branch only"),
        ("lab/x", {"forms": ["gguf"]}, "form must be 'vit'"),
    ],
)
def test_a_wrong_name_or_choice_is_refused(
    hub: LoopbackHub, folder: Path, repo_id: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(MLCAKError, match=said):
        push_to_hub(folder, repo_id, **options)
    assert not hub.repositories
