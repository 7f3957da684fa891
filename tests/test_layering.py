"""The rooms of the package and who may know whom, read from the imports themselves."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "mlcak_hf"
HUB_FILES = {path.stem for path in PACKAGE.glob("*_mlcak.py")}

# Rooms from below to above; a file may import its own level's room and whatever stands below it.
LEVELS = (
    {"hub", "errors", "shipped", "worker_processes", "script"},
    {"pretrained", "radiographs"},
    {"phantoms", "preparation"},
    {"vindr_cxr"},
    {"data"},
    {"distillation"},
    {"training"},
    {"explanation"},
    {"evaluation"},
    {"prediction"},
    {"deployment"},
    {"cli"},
)
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
# Upward imports that are still to be untangled.
PENDING: set[tuple[str, str]] = {
    ("phantoms/writer", "vindr_cxr.labels"),
    ("preparation/card", "vindr_cxr.builder"),
    ("preparation/notes", "vindr_cxr.layout"),
    ("preparation/plan", "vindr_cxr.layout"),
    ("preparation/plan", "vindr_cxr.splits"),
    ("preparation/prepare", "vindr_cxr.labels"),
    ("preparation/prepare", "vindr_cxr.layout"),
    ("preparation/prepare", "vindr_cxr.splits"),
    ("preparation/report", "vindr_cxr.layout"),
    ("preparation/rows", "vindr_cxr.conversions"),
    ("preparation/rows", "vindr_cxr.kaggle"),
    ("preparation/rows", "vindr_cxr.labels"),
    ("preparation/rows", "vindr_cxr.layout"),
    ("preparation/rows", "vindr_cxr.tables"),
    ("preparation/shards", "vindr_cxr.layout"),
    ("preparation/suspect_images", "vindr_cxr.source"),
}


def room_of(module: str) -> str:
    """`phantoms.writer` -> `phantoms`; the flat files that travel to the Hub are one room."""
    top = module.split(".")[0]
    return "hub" if top in HUB_FILES else top


def imported_modules(path: Path) -> set[str]:
    """Modules of this package that a file imports, relative to the package (function bodies included)."""
    package = path.relative_to(PACKAGE).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.removeprefix("mlcak_hf.") for name in node.names if name.name.startswith("mlcak_hf.")}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - (node.level - 1)]
                module = ".".join((*base, node.module)) if node.module else ".".join(base)
            elif node.module and node.module.split(".")[0] == "mlcak_hf":
                module = node.module.removeprefix("mlcak_hf").lstrip(".")
            else:
                continue
            found |= {module} if module else {name.name for name in node.names}
    return found


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_stands_below_it(path: Path) -> None:
    relative = path.relative_to(PACKAGE).with_suffix("")
    room = room_of(relative.parts[0])
    assert room in LEVEL, f"{relative} is in no known room; add it to LEVELS"
    upward = {
        (str(relative), module)
        for module in imported_modules(path)
        if module != "__version__" and room_of(module) != room and LEVEL.get(room_of(module), 99) >= LEVEL[room] > 0
    }
    assert upward <= PENDING, f"{relative} ({room}) must not import {sorted(upward - PENDING)}"


def test_hub_files_import_each_other_flat_and_nothing_heavy() -> None:
    allowed = {"__future__", "torch", "numpy", "PIL", "transformers", "huggingface_hub"}
    stdlib = {"collections", "copy", "dataclasses", "functools", "math", "pathlib", "typing", "os", "json", "itertools"}
    for name in HUB_FILES:
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, f"{name}: remote code follows only flat imports"
                assert node.module in HUB_FILES, f"{name}: remote code follows only `from .x import y`"
            elif isinstance(node, ast.ImportFrom | ast.Import):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                for module in modules:
                    assert str(module).split(".")[0] in allowed | stdlib, f"{name} imports {module}"


def test_no_room_for_leftovers() -> None:
    forbidden = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert not [path for path in PACKAGE.rglob("*.py") if path.name in forbidden]


def test_no_torchvision_anywhere() -> None:
    root = PACKAGE.parents[1]
    for path in [*PACKAGE.rglob("*.py"), *(root / "examples").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not any(name.split(".")[0] == "torchvision" for name in names), path
