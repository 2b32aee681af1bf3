"""Models: one paper a file, each a function that returns a `Flow` or a `Classifier`."""

import inspect
from collections.abc import Callable
from typing import Any

from invertible.classifier import Classifier
from invertible.errors import ConfigError, choose
from invertible.flow import Flow
from invertible.models.ffjord import ffjord
from invertible.models.glow import glow
from invertible.models.iresnet import iresnet
from invertible.models.irevnet import irevnet
from invertible.models.nice import nice
from invertible.models.realnvp import realnvp
from invertible.models.residual_flow import residual_flow
from invertible.models.resnet import resnet
from invertible.models.revnet import revnet

FLOWS: dict[str, Callable[..., Flow]] = {
    "ffjord": ffjord,
    "glow": glow,
    "nice": nice,
    "realnvp": realnvp,
    "residual_flow": residual_flow,
}
CLASSIFIERS: dict[str, Callable[..., Classifier]] = {
    "iresnet": iresnet,
    "irevnet": irevnet,
    "resnet": resnet,
    "revnet": revnet,
}
BUILDERS: dict[str, Callable[..., Flow | Classifier]] = {**FLOWS, **CLASSIFIERS}


def build(name: str, arguments: dict[str, Any]) -> Flow | Classifier:
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


__all__ = [
    "BUILDERS",
    "CLASSIFIERS",
    "FLOWS",
    "build",
    "ffjord",
    "glow",
    "iresnet",
    "irevnet",
    "nice",
    "realnvp",
    "residual_flow",
    "resnet",
    "revnet",
]
