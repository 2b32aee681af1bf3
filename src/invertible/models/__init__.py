"""Models: one paper a file, each a function that returns a `Flow`, a `Classifier` or a `Reconstructor`."""

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
from invertible.models.irim import irim
from invertible.models.nice import nice
from invertible.models.realnvp import realnvp
from invertible.models.reconstructor import Reconstructor
from invertible.models.residual_flow import residual_flow
from invertible.models.resnet import resnet
from invertible.models.revnet import revnet
from invertible.models.rim import rim
from invertible.models.unet import unet

# What a file of weights may hold, and a recipe may train.
AnyModel = Flow | Classifier | Reconstructor

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
RECONSTRUCTORS: dict[str, Callable[..., Reconstructor]] = {
    "irim": irim,
    "rim": rim,
    "unet": unet,
}
BUILDERS: dict[str, Callable[..., AnyModel]] = {**FLOWS, **CLASSIFIERS, **RECONSTRUCTORS}


def build(name: str, arguments: dict[str, Any]) -> AnyModel:
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
    "RECONSTRUCTORS",
    "AnyModel",
    "build",
    "ffjord",
    "glow",
    "iresnet",
    "irevnet",
    "irim",
    "nice",
    "realnvp",
    "residual_flow",
    "resnet",
    "revnet",
    "rim",
    "unet",
]
