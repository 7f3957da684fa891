"""Find what ships in hub_configs: model sizes, trained checkpoints and recipes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from .errors import RecipeError


def hub_configs_dir() -> Path:
    """Return the folder of model sizes, recipes and templates, in an installed wheel or a checkout.

    Raises:
        [`RecipeError`]: When neither has it.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "hub_configs", package.parents[1] / "hub_configs"):
        if folder.is_dir():
            return folder
    raise RecipeError(f"hub_configs is neither in {package} nor in {package.parents[1]}. Install mlcak-hf again.")


def checkpoint_names() -> list[str]:
    """List the trained models that ship with the package."""
    return sorted(path.parent.name for path in hub_configs_dir().glob("checkpoints/*/config.json"))


def resolve_checkpoint(name: str) -> str:
    """Return the folder of a trained model that ships with the package; every other name is returned unchanged.

    Args:
        name (`str`):
            A checkpoint such as `pneumonia-28`, a folder, or a Hub id. A folder of the same name with a model in it
            comes first.
    """
    shipped = hub_configs_dir() / "checkpoints" / name
    plain = "/" not in name and not (Path(name) / "config.json").exists()
    return str(shipped) if plain and (shipped / "config.json").is_file() else name


def resolve_model(name: str) -> str:
    """Return the folder of a model size or a trained model in hub_configs; folders and Hub ids are returned unchanged.

    Args:
        name (`str`):
            A size such as `student-vit-ti4-28`, a checkpoint such as `pneumonia-28`, a folder, or a Hub id.

    Raises:
        [`RecipeError`]: When a name without owner (`owner/name`) is neither a folder, a size nor a checkpoint.
    """
    sizes, found = hub_configs_dir() / "models", resolve_checkpoint(name)
    if Path(found).is_dir():
        return found
    if (sizes / name / "config.json").is_file():
        return str(sizes / name)
    if "/" in name and not Path(name).is_absolute():
        return name
    known = checkpoint_names() + sorted(folder.name for folder in sizes.iterdir() if folder.is_dir())
    raise RecipeError(
        f"There is no model {name!r}: no such folder, size or checkpoint.{close_name(name, known)} {known}"
    )


def resolve_recipe(name: str) -> Path:
    """Return the path of a recipe.

    Args:
        name (`str`):
            A YAML file, or the name of a recipe in hub_configs/recipes.

    Raises:
        [`RecipeError`]: When there is neither.
    """
    recipes = hub_configs_dir() / "recipes"
    for path in (Path(name), recipes / f"{name}.yaml"):
        if path.is_file():
            return path
    known = sorted(path.stem for path in recipes.glob("*.yaml"))
    raise RecipeError(f"There is no recipe {name!r}: no such file, and no such name.{close_name(name, known)} {known}")


def close_name(name: str, known: Sequence[str]) -> str:
    """Return a question that suggests the most similar known name, or an empty string."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""
