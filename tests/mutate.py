"""Change a source file in one place at a time, and list the changes that its tests do not notice.

    python tests/mutate.py src/mlcak_hf/evaluation/bootstrap.py tests/evaluation/test_bootstrap.py

Each mutant runs in a fork of a process that has imported the libraries, so that it costs little more than its tests,
which end at the first failure. Messages, annotations and docstrings are left alone.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import gc
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# They collect garbage for longer than the tests run.
WITHOUT_PLUGINS = ("-p", "no:cacheprovider", "-p", "no:unraisableexception", "-p", "no:threadexception")
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def places(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes in a fixed order, without messages, annotations, docstrings and imports for type checkers."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for node in value if isinstance(value, list) else [value]:
            skipped = (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)
            type_checking = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            if isinstance(node, ast.AST) and not isinstance(node, skipped) and not type_checking:
                yield node
                yield from places(node)


def changes(node: ast.AST) -> Iterator[str]:
    """Apply every change to a node in turn; yields the name of each while it is in place."""
    for field in ("op", "ops"):
        operators = getattr(node, field, None)
        first = operators[0] if isinstance(operators, list) else operators
        if type(first) in SWAPS and not isinstance(node, ast.UnaryOp):
            swapped = SWAPS[type(first)]()
            setattr(node, field, [swapped, *operators[1:]] if isinstance(operators, list) else swapped)
            yield f"{type(first).__name__} -> {type(swapped).__name__}"
            setattr(node, field, operators)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        # Twice is not at all.
        operand, node.operand = node.operand, ast.UnaryOp(node.op, node.operand)
        yield f"without {type(node.op).__name__}"
        node.operand = operand
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        test, node.test = node.test, ast.UnaryOp(ast.Not(), node.test)
        yield "condition negated"
        node.test = test
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        value = node.value
        node.value = not value if isinstance(value, bool) else value + 1
        yield f"{value} -> {node.value}"
        node.value = value


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, description and source of every mutant."""
    tree = ast.parse(source)
    for node in list(places(tree)):
        for change in changes(node):
            fixed = ast.fix_missing_locations(copy.deepcopy(tree))
            yield getattr(node, "lineno", 0), f"{ast.unparse(node)[:60]}  ({change})", ast.unparse(fixed)


def import_libraries(tests: list[str]) -> None:
    """Import what the tests import, except for this repository's own modules."""
    with Path(os.devnull).open("w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        pytest.main(["--collect-only", "-q", *WITHOUT_PLUGINS, *tests])
    for name, module in list(sys.modules.items()):
        if name != "__main__" and str(getattr(module, "__file__", None) or "").startswith(f"{ROOT}/"):
            del sys.modules[name]
    gc.freeze()


def passes(file: Path, source: str, tests: list[str], limit: float) -> bool:
    """Run the tests in a fork in which the file has this source."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    signal.alarm(int(limit) + 1)
    original = SourceFileLoader.get_data
    SourceFileLoader.get_data = lambda loader, path: (  # type: ignore[method-assign]
        source.encode() if Path(path) == file else original(loader, path)
    )
    # Without stored bytecode, the changed source is what is compiled.
    sys.dont_write_bytecode, sys.pycache_prefix = True, "/nonexistent"
    with Path(os.devnull).open("w") as quiet, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        code = pytest.main(["-x", "-q", *WITHOUT_PLUGINS, "-m", "not slow", *tests])
    os._exit(int(code))


def main() -> None:
    """Print survivors and the share of mutants that are killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("tests", nargs="+", help="Test files and options of pytest; options after `--`.")
    parser.add_argument("--sample", type=int, help="Try only this many mutants, drawn with a fixed seed.")
    args = parser.parse_args()
    file = args.file.resolve()
    import_libraries(args.tests)
    source, start = file.read_text(encoding="utf-8"), time.monotonic()
    if not passes(file, source, args.tests, 600):
        sys.exit("The tests fail without any change.")
    limit = 3 * (time.monotonic() - start) + 10
    tried = list(mutants(source))
    if args.sample is not None and args.sample < len(tried):
        chosen = sorted(random.Random(0).sample(range(len(tried)), args.sample))
        print(f"{args.sample} of {len(tried)} mutants are tried.")
        tried = [tried[place] for place in chosen]
    killed = 0
    for line, description, mutant in tried:
        if passes(file, mutant, args.tests, limit):
            print(f"survived: line {line}: {description}", flush=True)
        else:
            killed += 1
    print(f"{args.file}: {killed} of {len(tried)} mutants killed, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
