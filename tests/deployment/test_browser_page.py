"""The page for the browser, without a browser; the page itself is tested by `make test-browser`."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlcak_hf.cli.main import app
from mlcak_hf.deployment.npm_packages import NpmPackages, npm_packages
from mlcak_hf.errors import DeploymentError
from mlcak_hf.shipped import hub_configs_dir

PAGE = hub_configs_dir() / "static_space"


def test_without_node_a_page_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeploymentError, match=r"`node` was not found\. Install Node\.js"), npm_packages(PAGE):
        pass


def test_a_failing_install_says_what_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, script in {"node": "exit 0", "npm": "echo the registry is away >&2; exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(DeploymentError, match=r"npm ci` failed .*the registry is away"), npm_packages(PAGE):
        pass


def test_licences_name_every_package_with_its_text(tmp_path: Path) -> None:
    for name, text in {"@owner/one": "All rights.", "two": None}.items():
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "package.json").write_text(json.dumps({"version": "1.2", "license": "MIT"}))
        if text:
            (folder / "LICENSE").write_text(text)
    found = NpmPackages(tmp_path).licences(["@owner/one", "two"], PAGE / "more_licences.txt")
    assert "@owner/one 1.2 (MIT)\n\nAll rights.\ntwo 1.2 (MIT)\n" in found
    assert "OpenJPEG, in @cornerstonejs/codec-openjpeg (BSD-2-Clause)" in found


def test_all_packages_are_pinned_with_their_digest_and_no_registry() -> None:
    wanted = json.loads((PAGE / "package.json").read_text())["dependencies"]
    locked = json.loads((PAGE / "package-lock.json").read_text())["packages"]
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert all("integrity" in entry and "resolved" not in entry for name, entry in locked.items() if name)


@pytest.mark.parametrize("to", ["vit", "onnx"])
def test_a_single_file_belongs_to_the_page(to: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", "pneumonia-28", str(tmp_path / "out"), "--to", to, "--single-file"])
    assert isinstance(done.exception, DeploymentError)
    assert "--single-file belongs to `--to page`" in str(done.exception)
