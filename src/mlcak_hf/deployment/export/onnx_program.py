"""The program beside exported ONNX files, with a copy of the modules that it needs, so that the folder stands alone."""

from __future__ import annotations

import ast
import shutil
from importlib import metadata
from pathlib import Path

from ...shipped import hub_configs_dir

_PACKAGE = Path(__file__).resolve().parents[2]
_ENTRIES = ("prediction.onnx_predictor", "serving.answers")


def write_program(folder: Path) -> None:
    """Write `predict.py`, `handler.py`, `requirements.txt`, and `mlcak_hf/` with what they import of this package.

    Args:
        folder (`Path`):
            Where the ONNX files are.
    """
    for name in ("onnx/predict.py", "onnx/requirements.txt", "endpoint/handler.py"):
        shutil.copyfile(hub_configs_dir() / name, folder / Path(name).name)
    for file in sorted({file for entry in _ENTRIES for file in needed_files(entry)}):
        target = folder / _PACKAGE.name / file.relative_to(_PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    licence = metadata.distribution("mlcak-hf").read_text("licenses/LICENSE")
    if licence is not None:
        (folder / _PACKAGE.name / "LICENSE").write_text(licence, encoding="utf-8")


def needed_files(module: str) -> list[Path]:
    """List the files of a module of this package, of all modules that it imports, and of their folders.

    Args:
        module (`str`):
            Its name below the package, such as `"radiographs.read"`.
    """
    waiting, found = [_file_of(module)], {_PACKAGE / "__init__.py"}
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        waiting += [folder / "__init__.py" for folder in file.parents if folder.is_relative_to(_PACKAGE)]
        for statement in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(statement, ast.ImportFrom) and statement.level:
                base = file.parents[statement.level - 1] / (statement.module or "").replace(".", "/")
                modules = [base, *(base / alias.name for alias in statement.names)]
                waiting += [path for entry in modules if (path := entry.with_name(f"{entry.name}.py")).is_file()]
    return sorted(found)


def _file_of(module: str) -> Path:
    return _PACKAGE / f"{module.replace('.', '/')}.py"
