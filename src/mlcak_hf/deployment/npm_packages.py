"""The npm packages of the page: installed at the pinned versions, bundled with its modules, licences collected."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import DeploymentError

_PINS = ("package.json", "package-lock.json")
_REGISTRY = "Check the connection to the npm registry and try again; after one success npm has its own copies."
# Branches of the decoders for Node.js, which a browser never enters.
_NODE_MODULES = ("fs", "path", "node:*")
_LICENCES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE")


@contextmanager
def npm_packages(pins: Path, folder: Path | None = None) -> Iterator[NpmPackages]:
    """Install the packages that `package-lock.json` names, without running their scripts.

    Args:
        pins (`Path`):
            Folder of `package.json` and `package-lock.json`.
        folder (`Path`, *optional*):
            Where to install, or where they are installed already. By default a temporary folder.

    Raises:
        [`DeploymentError`]: When Node.js is missing or a package cannot be installed.
    """
    check_node()
    with TemporaryDirectory() as place:
        target = (folder or Path(place)).resolve()
        target.mkdir(parents=True, exist_ok=True)
        lock = (pins / _PINS[1]).read_bytes()
        installed = target / "node_modules" / ".package-lock.json"
        if not (installed.is_file() and (target / _PINS[1]).is_file() and (target / _PINS[1]).read_bytes() == lock):
            for name in _PINS:
                shutil.copy(pins / name, target / name)
            _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"], target, _REGISTRY)
        yield NpmPackages(target / "node_modules")


def check_node() -> None:
    """Check that a page can be built.

    Raises:
        [`DeploymentError`]: When Node.js is missing.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise DeploymentError(
                f"A page is built with Node.js 20 or later; `{program}` was not found. Install Node.js."
            )


@dataclass(frozen=True)
class NpmPackages:
    """Installed packages.

    Args:
        folder (`Path`):
            The folder `node_modules`.
    """

    folder: Path

    def bundle(self, module: Path) -> tuple[bytes, set[str]]:
        """Join a JavaScript module with everything that it imports.

        Returns:
            `tuple[bytes, set[str]]`: The joined script, and the names of the packages in it.
        """
        with TemporaryDirectory() as place:
            made, report = Path(place, "module.js"), Path(place, "report.json")
            # A classic script: a page from a disk cannot start a worker from a module.
            options = ["--bundle", "--format=iife", "--platform=browser", "--minify", "--log-level=error"]
            options += ["--define:import.meta.url=self.location.href"]
            options += [f"--external:{name}" for name in _NODE_MODULES]
            esbuild = self.folder / "esbuild" / "bin" / "esbuild"
            _run(
                ["node", esbuild, module, *options, f"--outfile={made}", f"--metafile={report}"],
                self.folder.parent,
                "Install mlcak-hf again, or report this.",
                NODE_PATH=str(self.folder),
            )
            inputs = json.loads(report.read_text(encoding="utf-8"))["inputs"]
            return made.read_bytes(), {_package_of(path) for path in inputs if "node_modules/" in path}

    def licences(self, names: Sequence[str], more: Path) -> str:
        """Return name, version, licence and licence text of packages, and the text of `more`."""
        parts = ["This page contains the software below. The page itself is part of mlcak-hf (Apache-2.0).\n"]
        for name in names:
            package = json.loads((self.folder / name / "package.json").read_text(encoding="utf-8"))
            text = next((found for file in _LICENCES if (found := self.folder / name / file).is_file()), None)
            parts.append(f"{name} {package['version']} ({package['license']})\n")
            if text is not None:
                parts.append(text.read_text(encoding="utf-8"))
        return "\n".join([*parts, more.read_text(encoding="utf-8")])


def _package_of(path: str) -> str:
    first, second = path.rpartition("node_modules/")[2].split("/")[:2]
    return f"{first}/{second}" if first.startswith("@") else first


def _run(command: Sequence[str | Path], folder: Path, remedy: str, **environment: str) -> None:
    try:
        # On Windows, npm is a script that only its full path starts.
        words = [shutil.which(str(command[0])) or str(command[0]), *map(str, command[1:])]
        done = subprocess.run(
            words, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise DeploymentError(f"`{command[0]}` cannot be started ({error}). Install Node.js 20 or later.") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise DeploymentError(f"`{command[0]} {Path(command[1]).name}` failed ({'; '.join(lines[:2])}). {remedy}")
