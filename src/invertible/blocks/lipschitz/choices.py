"""Activations by name, and their constants in a norm."""

import math
from collections.abc import Callable

import torch
from torch import nn

from invertible.blocks.lipschitz.activations import CLipSwish, FullSort, LipschitzCube, LipSwish, MaxMin
from invertible.errors import ConfigError, choose
from invertible.norms import ACTIVATIONS, lipschitz_bound
from invertible.norms.activations import WITH_ARGUMENTS

Activation = str | Callable[[], nn.Module]

NAMES: dict[str, Callable[[], nn.Module]] = {
    "lipswish": LipSwish,
    "clipswish": CLipSwish,
    "maxmin": MaxMin,
    "fullsort": FullSort,
    "cube": LipschitzCube,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}
OURS = (LipSwish, CLipSwish, MaxMin, FullSort, LipschitzCube)


def activation_of(owner: str, activation: Activation, norm: float) -> Callable[[], nn.Module]:
    """The factory of an activation.

    Raises:
        ConfigError: if the name is unknown, or what a factory makes has no fixed constant.
    """
    factory = choose(owner, "activation", activation, NAMES) if isinstance(activation, str) else activation
    if constant_of(factory(), norm) is None:
        raise ConfigError(
            f"{owner}: expected an activation with a fixed Lipschitz constant, got {type(factory()).__name__}. Take "
            f"one of {', '.join(map(repr, NAMES))}, or a module without parameters that has a method "
            "lipschitz_bound() -> float."
        )
    return factory


def constant_of(module: nn.Module, norm: float) -> float | None:
    """Lipschitz constant of an activation that no training changes, `None` if it has none.

    Functions of one number have the same in every norm; a module of one's own says it for the 2-norm.
    """
    if isinstance(module, OURS):
        return module.lipschitz_bound(norm)
    # A parameter, such as the slope of nn.PReLU, is free to grow; drawn slopes are no function of the input.
    if any(True for _ in module.parameters()) or isinstance(module, nn.RReLU):
        return None
    one_number = type(module) in (*ACTIVATIONS, *WITH_ARGUMENTS)
    if not one_number and (norm != 2 or not callable(getattr(module, "lipschitz_bound", None))):
        return None
    constant = lipschitz_bound(module)
    return constant if math.isfinite(constant) else None


def widening(factory: Callable[[], nn.Module]) -> int:
    """By how much an activation multiplies the number of channels."""
    with torch.no_grad():
        return factory()(torch.zeros(1, 4)).shape[1] // 4
