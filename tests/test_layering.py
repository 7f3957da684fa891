"""The rules of the source tree that a program can check: who imports whom, sizes, and names."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "mlcak_hf"
ROOT = PACKAGE.parents[1]
HUB_FILES = {path.stem for path in PACKAGE.glob("*_mlcak.py")}
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in SOURCES if path.name != "__init__.py"]

# From below: a file may import its own room and the rooms of the levels below. The lowest level is free within itself.
LEVELS = (
    {"hub", "errors", "probabilities", "shipped", "weights", "worker_processes", "script"},
    {"pretrained", "radiographs"},
    {"preparation"},
    {"vindr_cxr", "labels_csv"},
    {"phantoms"},
    {"data"},
    {"distillation"},
    {"training"},
    {"explanation", "trust"},
    {"evaluation", "prediction"},
    {"deployment", "serving"},
    {"cli"},
    {"__main__"},
)
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}

# Exceptions while a file is being reworked, by rule. All of them must be empty in the end.
UPWARD_IMPORTS: set[str] = set()
CIRCLES: set[str] = set()
LOCAL_IMPORTS: set[str] = set()
ABSOLUTE_IMPORTS: set[str] = set()
WITHOUT_FUTURE: set[str] = set()
LONG_FILES: set[str] = set()
LONG_PARAMETER_LISTS: set[str] = set()
REPEATED_MODULES: set[str] = set()
REPEATED_NAMES: set[str] = set()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def room_of(module: str) -> str:
    """The room of a module; the flat files that travel to the Hub are one room."""
    top = module.split(".")[0]
    return "hub" if top in HUB_FILES else top


def own_imports(path: Path, node: ast.AST) -> set[str]:
    """Modules of this package that the statements below `node` import, those in function bodies included."""
    package = path.relative_to(PACKAGE).parent.parts
    found = set()
    for statement in ast.walk(node):
        if not isinstance(statement, ast.ImportFrom) or not statement.level:
            continue
        base = package[: len(package) - (statement.level - 1)]
        module = ".".join((*base, statement.module)) if statement.module else ".".join(base)
        for alias in statement.names:
            inner = ".".join(filter(None, (module, alias.name)))
            found.add(inner if (PACKAGE / f"{inner.replace('.', '/')}.py").is_file() else module)
    return found - {""}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_imports_only_what_is_below_it(path: Path) -> None:
    room = room_of(name_of(path))
    assert room in LEVEL, f"{room} is not a known room; add it to LEVELS."
    upward = {
        f"{name_of(path)} -> {module}"
        for module in own_imports(path, tree(path))
        if room_of(module) != room and LEVEL.get(room_of(module), 99) >= LEVEL[room] > 0
    }
    assert upward <= UPWARD_IMPORTS


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {name_of(path): own_imports(path, tree(path)) for path in MODULES if name_of(path) not in CIRCLES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_own_modules_are_imported_inside_functions_only_by_commands() -> None:
    found = {
        name_of(path)
        for path in MODULES
        if room_of(name_of(path)) != "cli"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and own_imports(path, node)
    }
    assert found <= LOCAL_IMPORTS


def test_imports_inside_the_package_are_relative() -> None:
    absolute = set()
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            if any(name.split(".")[0] == "mlcak_hf" for name in names):
                absolute.add(name_of(path))
    assert absolute <= ABSOLUTE_IMPORTS


def test_annotations_are_postponed_outside_the_hub_files() -> None:
    """In the Hub files `@strict` needs annotations that are evaluated."""
    without = {
        name_of(path)
        for path in SOURCES
        if path.stem not in HUB_FILES
        and len(tree(path).body) > 1
        and not any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree(path).body)
    }
    assert without <= WITHOUT_FUTURE


def test_a_rooms_init_holds_only_a_docstring() -> None:
    for path in SOURCES:
        if path.name == "__init__.py" and path.parent != PACKAGE:
            assert ast.get_docstring(tree(path)), name_of(path)
            assert len(tree(path).body) == 1, name_of(path)


def test_folders_hold_at_most_twelve_files_and_files_at_most_300_lines() -> None:
    folders = Counter(path.parent for path in SOURCES if path.stem not in HUB_FILES)
    assert not {str(folder) for folder, count in folders.items() if count > 12}
    too_long = {
        name_of(path)
        for path in SOURCES
        if len(path.read_text(encoding="utf-8").splitlines()) > (400 if path.stem in HUB_FILES else 300)
    }
    assert too_long <= LONG_FILES


def test_functions_take_at_most_seven_parameters() -> None:
    """Commands take one per option, and `forward` what transformers passes."""
    too_many = set()
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.FunctionDef) or node.name == "forward" or room_of(name_of(path)) == "cli":
                continue
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if len([argument for argument in arguments if argument.arg not in ("self", "cls")]) > 7:
                too_many.add(f"{name_of(path)}.{node.name}")
    assert too_many <= LONG_PARAMETER_LISTS


def test_names_say_what_a_file_holds() -> None:
    forbidden = {"utils", "helpers", "common", "misc"}
    assert not [path for path in SOURCES if forbidden & set(path.relative_to(PACKAGE).with_suffix("").parts)]
    names = Counter((room_of(name_of(path)), path.stem) for path in MODULES)
    rooms = set(LEVEL)
    assert {
        f"{room}.{stem}" for (room, stem), n in names.items() if n > 1 or stem in rooms - {room}
    } <= REPEATED_MODULES


def test_no_public_name_is_defined_twice() -> None:
    defined: Counter[str] = Counter()
    for path in MODULES:
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined[node.name] += 1
            elif isinstance(node, ast.Assign):
                defined.update(target.id for target in node.targets if isinstance(target, ast.Name))
    usual = {"logger", "main"}
    repeated = {name for name, count in defined.items() if count > 1 and not name.startswith("_")}
    assert repeated - usual <= REPEATED_NAMES


def test_hub_files_import_each_other_flat_and_nothing_heavy() -> None:
    allowed = {"__future__", "torch", "numpy", "PIL", "transformers", "huggingface_hub"}
    stdlib = {"collections", "copy", "dataclasses", "functools", "math", "pathlib", "typing", "os", "json", "itertools"}
    for name in HUB_FILES:
        for node in ast.walk(tree(PACKAGE / f"{name}.py")):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, f"{name}: remote code follows only flat imports"
                assert node.module in HUB_FILES, f"{name}: remote code follows only `from .x import y`"
            elif isinstance(node, ast.ImportFrom | ast.Import):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                for module in modules:
                    assert str(module).split(".")[0] in allowed | stdlib, f"{name} imports {module}"


def test_no_torchvision_anywhere() -> None:
    for path in [*SOURCES, *(ROOT / "examples").rglob("*.py")]:
        names = {alias.name for node in ast.walk(tree(path)) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom)}
        assert not any(name.split(".")[0] == "torchvision" for name in names), path
