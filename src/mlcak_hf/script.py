"""What every script under `accelerate launch` needs: choices from a recipe and the command line, a start and an end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import yaml
from accelerate import PartialState
from transformers import HfArgumentParser

from .errors import MLCAKError, RecipeError
from .shipped import close_name, resolve_recipe

Returned = TypeVar("Returned")


def read_recipe(path: str | Path, known: Sequence[str]) -> dict[str, Any]:
    """Read a recipe and refuse keys that nothing would use.

    Args:
        path: a YAML file holding a mapping.
        known: the keys that mean something.

    Returns:
        The mapping.

    Raises:
        RecipeError: if the file is no mapping, or a key is unknown or there twice; names the file, the key and the
            closest known key.
    """
    try:
        recipe = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"The recipe {path} cannot be read as YAML: {error}") from error
    if recipe is None:
        return {}
    if not isinstance(recipe, dict):
        raise RecipeError(f"The recipe {path} must be a mapping of names to values, not a {type(recipe).__name__}.")
    for key in recipe:
        if key not in known:
            raise RecipeError(f"The recipe {path} has the unknown key {key!r}.{close_name(str(key), known)}")
    return recipe


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML takes the last of two equal keys silently, so that a choice made further up would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a mapping that has a key twice."""
        seen = set()
        for key_node, _ in node.value:
            # `<<` is no key, and what is no scalar cannot be one: the base class says so.
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice, again in line {line}; leave one of the two out."
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_recipe(dataclass_types: Sequence[Any], argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Fill dataclasses from a recipe (`--config NAME_OR_FILE`) and the command line, which wins.

    Args:
        dataclass_types: dataclasses as `HfArgumentParser` takes them, `TrainingArguments` among them.
        argv: arguments; None means those of the running script.

    Returns:
        One instance per dataclass.

    Raises:
        RecipeError: if an argument or a recipe key is unknown or has a value of the wrong kind.

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
    parser = _RecipeParser(list(dataclass_types), allow_abbrev=False)
    parser.add_argument("--config", metavar="RECIPE", help="recipe: a YAML file, or a name in hub_configs/recipes")
    arguments = list(sys.argv[1:] if argv is None else argv)
    where = "on the command line"
    name, given = _split_config(arguments)
    if name is not None:
        path = resolve_recipe(name)
        recipe = read_recipe(path, [f.name for kind in dataclass_types for f in fields(kind) if f.init])
        given = [token for key, value in recipe.items() for token in _as_arguments(path, key, value)] + given
        where = f"in the recipe {path} or {where}"
    try:
        *parsed, _, unknown = parser.parse_args_into_dataclasses(
            given, return_remaining_strings=True, look_for_args_file=False
        )
    except _UnusableArgumentError as error:
        raise RecipeError(f"Unusable {where}: {error}") from None
    if unknown:
        options = [option.lstrip("-") for option in parser._option_string_actions]
        raise RecipeError(f"Unknown {where}: {' '.join(unknown)}.{close_name(unknown[0].lstrip('-'), options)}")
    return tuple(parsed)


class _UnusableArgumentError(Exception):
    """What argparse would have printed before leaving the process."""


class _RecipeParser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UnusableArgumentError(message)


def _split_config(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Take `--config X` or `--config=X` out of the arguments; the last one counts."""
    name, rest = None, []
    tokens = iter(arguments)
    for token in tokens:
        if token == "--config":
            name = next(tokens, None)
            if name is None:
                raise RecipeError("--config needs the name of a recipe or a YAML file.")
        elif token.startswith("--config="):
            name = token.removeprefix("--config=")
        else:
            rest.append(token)
    return name, rest


def _as_arguments(path: Path, key: str, value: Any) -> list[str]:
    """Write a recipe's entry as a shell would, so that one parser converts and checks both."""
    if value is None:
        return []
    if isinstance(value, dict):
        return [f"--{key}={json.dumps(value)}"]
    if isinstance(value, list):
        if not value:
            raise RecipeError(f"The recipe {path} has an empty list for {key!r}; leave the key out instead.")
        return [f"--{key}", *map(str, value)]
    return [f"--{key}={value}"]


def run_script(main: Callable[[], Returned]) -> Returned:
    """Run the main function of a script, in one process or in several.

    Several processes wait for each other and close their connections before they end: one whose connections are still
    open while the interpreter shuts down may be aborted, and the launcher then calls the whole run a failure.

    Args:
        main: what the script does.

    Returns:
        What it returns.

    Raises:
        SystemExit: with one line, for an error that a person can mend.
    """
    try:
        result = main()
    except MLCAKError as error:
        raise SystemExit(f"error: {error}") from None
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        state = PartialState()
        state.wait_for_everyone()
        state.destroy_process_group()
    return result
