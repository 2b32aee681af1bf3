"""Models: one paper a file, each a function that returns a `Flow`."""

import inspect
from collections.abc import Callable
from typing import Any

from invertible.errors import ConfigError, choose
from invertible.flow import Flow
from invertible.models.glow import glow
from invertible.models.nice import nice
from invertible.models.realnvp import realnvp

BUILDERS: dict[str, Callable[..., Flow]] = {"glow": glow, "nice": nice, "realnvp": realnvp}


def build(name: str, arguments: dict[str, Any]) -> Flow:
    """Build a model by its name and arguments, as recipes and saved files hold them.

    Args:
        name: a key of `BUILDERS`.
        arguments: the function's arguments.

    Raises:
        ConfigError: if the name or an argument is unknown, or one is missing.
    """
    builder = choose("models.build", "name", name, BUILDERS)
    try:
        inspect.signature(builder).bind(**arguments)
    except TypeError as error:
        names = ", ".join(inspect.signature(builder).parameters)
        raise ConfigError(f"models.{name}: {error}. It takes {names}.") from error
    return builder(**arguments)


__all__ = ["BUILDERS", "build", "glow", "nice", "realnvp"]
