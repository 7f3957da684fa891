"""Find what ships in hub_configs: model sizes and recipes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

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
    raise RecipeError(f"There is no model {name!r}: no such folder, and no such size.{close_name(name, known)} {known}")


def resolve_recipe(name: str) -> Path:
    """Find a recipe: a path to a YAML file, or the name of one in hub_configs/recipes.

    Args:
        name: such as `small-teacher` or `my/recipe.yaml`.

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
    raise RecipeError(f"There is no recipe {name!r}: no such file, and no such name.{close_name(name, known)} {known}")


def close_name(name: str, known: Sequence[str]) -> str:
    """Return a question that suggests the most similar known name, or an empty string."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""
