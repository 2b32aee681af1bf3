"""The recipes that come with the package, and recipes from files."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invertible.errors import ConfigError, require

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def path(name: str) -> Path:
    """The file of a shipped recipe, or of a recipe given by its path.

    Raises:
        ConfigError: naming the nearest recipe, if there is none.
    """
    if name in names():
        return FOLDER / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        return Path(name)
    close = difflib.get_close_matches(name, names(), 1, 0.5)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ConfigError(
        f"recipe {name!r} is unknown.{hint} 'invertible recipes' lists those shipped; a path ends in .yaml."
    )


def text(name: str) -> str:
    """The YAML of a recipe, comments included."""
    return path(name).read_text(encoding="utf-8")


def load(name: str, overrides: Sequence[str] = ()) -> Any:  # noqa: ANN401
    """Read and check a recipe.

    Args:
        name: a shipped recipe, or the path of a YAML file.
        overrides: changes as `"section.key=value"`.

    Returns:
        An `invertible.training.Recipe`.

    Raises:
        ConfigError: one line that names the key and what it expects.
    """
    require("pydantic", "train")
    require("yaml", "train")
    from invertible.training.reading import read_recipe

    return read_recipe(path(name), overrides, source=f"recipe {name}")
