"""Training choices from a YAML recipe and the command line, and the folder of recipes and model sizes."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from .errors import RecipeError


def hub_configs_dir() -> Path:
    """Folder of model sizes, recipes and templates: inside an installed wheel, or at the top of a checkout.

    Returns:
        The existing folder.

    Raises:
        RecipeError: if neither place has it.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "hub_configs", package.parents[1] / "hub_configs"):
        if folder.is_dir():
            return folder
    raise RecipeError(f"hub_configs is neither in {package} nor in {package.parents[1]}. Install mlcak-hf again.")


def resolve_model(name: str) -> str:
    """Turn the name of a model size in hub_configs into its folder; leave folders and Hub ids as they are.

    Args:
        name: such as `student-vit-ti4-28`, a folder, or a Hub id.

    Returns:
        What `from_pretrained` takes.

    Raises:
        RecipeError: if the name has no owner (`owner/name`) and is neither a folder nor a size in hub_configs.
    """
    if Path(name).is_dir():
        return name
    sizes = hub_configs_dir() / "models"
    if (sizes / name / "config.json").is_file():
        return str(sizes / name)
    if "/" in name and not Path(name).is_absolute():
        return name
    known = sorted(folder.name for folder in sizes.iterdir() if folder.is_dir())
    raise RecipeError(f"There is no model {name!r}: no such folder, and no such size.{_close(name, known)} {known}")


def resolve_recipe(name: str) -> Path:
    """Find a recipe: a path to a YAML file, or the name of one in hub_configs/recipes.

    Args:
        name: such as `demo-teacher` or `my/recipe.yaml`.

    Returns:
        The existing file.

    Raises:
        RecipeError: if there is none.
    """
    if Path(name).is_file():
        return Path(name)
    recipes = hub_configs_dir() / "recipes"
    if (recipes / f"{name}.yaml").is_file():
        return recipes / f"{name}.yaml"
    known = sorted(path.stem for path in recipes.glob("*.yaml"))
    raise RecipeError(f"There is no recipe {name!r}: no such file, and no such name.{_close(name, known)} {known}")


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
            raise RecipeError(f"The recipe {path} has the unknown key {key!r}.{_close(str(key), known)}")
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
        raise RecipeError(f"Unknown {where}: {' '.join(unknown)}.{_close(unknown[0].lstrip('-'), options)}")
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


def _close(name: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""
