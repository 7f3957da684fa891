"""What every script under `accelerate launch` needs: options from a recipe and the command line, a start and an end."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import datasets
import torch
import yaml
from accelerate import PartialState
from transformers import HfArgumentParser
from transformers.utils import logging

from .errors import MLCAKError, RecipeError
from .shipped import close_name, resolve_recipe

Returned = TypeVar("Returned")

# The launcher ends all processes within a tenth of a second after the first has failed.
_OTHERS_WAIT_S = 5


def read_recipe(path: str | Path, known: Sequence[str]) -> dict[str, Any]:
    """Read a recipe and refuse unknown keys.

    Args:
        path (`str` or `Path`):
            A YAML file of keys and values.
        known (`Sequence[str]`):
            The known keys.

    Raises:
        [`RecipeError`]: When the file is not a mapping, or a key is unknown or repeated.
    """
    try:
        recipe = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"The recipe {path} cannot be read as YAML: {error}") from error
    if not isinstance(recipe, dict | None):
        raise RecipeError(f"The recipe {path} must be a mapping of names to values; got a {type(recipe).__name__}.")
    for key in recipe or {}:
        if key not in known:
            raise RecipeError(f"The recipe {path} has the unknown key {key!r}.{close_name(str(key), known)}")
    return recipe or {}


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuse repeated keys: YAML would silently use the last of them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a mapping with a repeated key."""
        # `<<` merges mappings, and the base class refuses keys that are not scalars.
        scalars = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge")]
        seen = set()
        for scalar in scalars:
            key = self.construct_object(scalar)
            if key in seen:
                problem = f"the key {key!r} is repeated in line {scalar.start_mark.line + 1}; remove one of the two."
                raise yaml.constructor.ConstructorError(None, None, problem)
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_recipe(
    dataclass_types: Sequence[Any], argv: Sequence[str] | None = None, prog: str | None = None
) -> tuple[Any, ...]:
    """Fill dataclasses from a recipe (`--config NAME_OR_FILE`) and the command line, which wins.

    Args:
        dataclass_types (`Sequence`):
            Dataclasses as `HfArgumentParser` takes them, `TrainingArguments` among them.
        argv (`Sequence[str]`, *optional*):
            Arguments. Defaults to those of the running script.
        prog (`str`, *optional*):
            Name in the help. Defaults to that of the running script.

    Returns:
        `tuple`: One instance per dataclass.

    Raises:
        [`RecipeError`]: When an argument or a recipe key is unknown or has a value of the wrong kind.

    Example:

    ```python
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Choices:
    ...     epochs: int = 3
    >>> parse_recipe([Choices], ["--epochs", "5"])
    (Choices(epochs=5),)
    ```
    """
    parser = _RecipeParser(list(dataclass_types), allow_abbrev=False, prog=prog)
    parser.add_argument("--config", metavar="RECIPE", help="recipe: a YAML file, or a name in hub_configs/recipes")
    config_parser = _RecipeParser([], allow_abbrev=False, add_help=False)
    config_parser.add_argument("--config")
    found, given = config_parser.parse_known_args(list(sys.argv[1:] if argv is None else argv))
    if found.config is not None:
        path = resolve_recipe(found.config)
        recipe = read_recipe(path, [f.name for kind in dataclass_types for f in fields(kind) if f.init])
        given = [token for key, value in recipe.items() for token in _as_arguments(path, key, value)] + given
        parser.where = f"in the recipe {path} or on the command line"
    *parsed, _, unknown = parser.parse_args_into_dataclasses(
        given, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        hint = close_name(unknown[0].lstrip("-"), [name.lstrip("-") for name in parser._option_string_actions])
        raise RecipeError(f"Unknown {parser.where}: {' '.join(unknown)}.{hint}")
    return tuple(parsed)


class _RecipeParser(HfArgumentParser):
    where = "on the command line"

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print before it ends the process."""
        raise RecipeError(f"Unusable {self.where}: {message}")


def _as_arguments(path: Path, key: str, value: Any) -> list[str]:
    """Write a recipe's entry as on a command line, so that one parser converts and checks both."""
    if isinstance(value, dict):
        return [f"--{key}={json.dumps(value)}"]
    if isinstance(value, list):
        if not value:
            raise RecipeError(f"The recipe {path} has an empty list for {key!r}; remove the key instead.")
        return [f"--{key}", *map(str, value)]
    return [] if value is None else [f"--{key}={value}"]


def run_script(main: Callable[[], Returned]) -> Returned:
    """Run the main function of a script, in one process or in several.

    Several processes wait for each other and close their connections before they end: otherwise the interpreter may
    abort while it shuts down, and the launcher reports a failure. Progress bars are shown in a terminal only.

    Args:
        main (`Callable`):
            The main function.

    Returns:
        What it returns.

    Raises:
        SystemExit: With one line, for an error that the user can correct.
    """
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        datasets.disable_progress_bars()
    try:
        result = main()
    except MLCAKError as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            # Most errors occur in every process, and the first one prints this one.
            time.sleep(_OTHERS_WAIT_S)
        raise SystemExit(f"error: {error}") from None
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        state = PartialState()
        state.wait_for_everyone()
        state.destroy_process_group()
    return result
