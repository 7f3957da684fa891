"""A model pushed to a Hub over HTTP and loaded again, by the real client, in fresh processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub, running_hub

REPO_ID = "radiology-lab/student-28"
CODE = {"configuration_mlcak.py", "image_processing_mlcak.py", "modeling_mlcak.py"}
MODEL = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
MODEL |= {"operating_points.json", "reference.npz"}

pytestmark = pytest.mark.slow


@dataclass
class Published:
    hub: LoopbackHub
    folder: Path


def run_fresh(script: str, *arguments: str, hub: LoopbackHub, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder in a process that knows nothing but the Hub: no cache, not offline, any token."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) and "proxy" not in name.lower()
    }
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules")}
    environment |= {"HF_TOKEN": "hf_of_the_test", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(Path(__file__).parent / script), *arguments],
        env=environment,
        cwd=home.parent,
        stdin=subprocess.DEVNULL,  # Nobody there to answer whether the remote code is to be trusted.
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("published")
    with running_hub() as hub:
        done = run_fresh("publish_a_model.py", str(folder), REPO_ID, hub=hub, home=folder / "home")
        assert done.returncode == 0, done.stderr
        yield Published(hub, folder)


def test_a_new_repository_is_private(published: Published) -> None:
    assert published.hub.repositories[REPO_ID].visibility == "private"


def test_the_model_arrives_whole_and_alone(published: Published) -> None:
    repository = published.hub.repositories[REPO_ID]
    files = set(repository.commits[repository.refs["main"]])
    assert files >= CODE | MODEL
    assert all(name in MODEL or name.endswith("_mlcak.py") for name in files)
    # What lay beside the model was not even announced to the Hub.
    assert published.hub.offered == files


def test_nothing_of_this_machine_is_told(published: Published) -> None:
    repository = published.hub.repositories[REPO_ID]
    for name, content in repository.commits[repository.refs["main"]].items():
        assert str(published.folder).encode() not in content, name
        assert str(Path.home()).encode() not in content, name


def test_versions_and_branches(published: Published) -> None:
    repository = published.hub.repositories[REPO_ID]
    versions = json.loads((published.folder / "versions.json").read_text())
    assert versions["first"] != versions["second"]
    assert repository.refs["main"] == versions["second"]
    first, second = (repository.commits[versions[name]] for name in ("first", "second"))
    assert first["model.safetensors"] != second["model.safetensors"]


@pytest.mark.parametrize("package", ["installed", "absent"])
def test_loads_bit_for_bit(published: Published, package: str, tmp_path: Path) -> None:
    done = run_fresh(
        "load_a_model.py", str(published.folder), REPO_ID, package, hub=published.hub, home=tmp_path / "home"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("all equal")
