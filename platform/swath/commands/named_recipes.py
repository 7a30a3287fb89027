"""Recipes by name: the installed ones (`swath.recipes`), or those of a module of one's own."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import get_type_hints

from swath import extensions
from swath.config import Config
from swath.errors import ConfigError

INSTALLED = "swath.recipes"
"""The module of the recipes that come with swath."""


def recipe(name: str, module: str = INSTALLED) -> Config:
    """The configuration of a recipe. Raises ConfigError for an unknown one, with the nearest name."""
    found = recipes_of(module)
    if name not in found:
        near = get_close_matches(name, found, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(found)}"
        raise ConfigError(f"no recipe {name!r} in {module}; {hint}")
    return found[name]()


def recipes_of(module: str) -> dict[str, Callable[[], Config]]:
    """The recipes of a module, by name: its public functions whose return annotation is Config.

    The current directory counts for the import. Raises ConfigError where the module cannot be imported.
    """
    there = extensions.import_module(module, "--recipes")
    return {name: value for name, value in vars(there).items()
            if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == there.__name__
            and get_type_hints(value).get("return") is Config}
