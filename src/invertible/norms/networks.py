"""Certified upper bounds of the Lipschitz constants of networks."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

from invertible.norms.layers import RULES, known_as, layer_norm
from invertible.norms.rounding import outward, times

_remembered: ContextVar[dict[int, tuple[nn.Module, float]] | None] = ContextVar("norms", default=None)


def lipschitz_bound(module: nn.Module) -> float:
    """Upper bound of a network's Lipschitz constant in the 2-norm: the product of its layers' norms.

    Knows torch's linear layers, convolutions and transposed convolutions of any stride, dilation, groups and padding,
    weight and spectral norm, batch norm in eval mode, layer, group and RMS norm (by their eps, so huge), pooling,
    padding, reshaping, dropout in eval mode, and activations; `nn.Sequential` of these; and any module with a method
    `lipschitz_bound() -> float`. The mode counts: batch norm and dropout in training mode have none. Hooks on a forward
    are taken to observe.

    Of a conditioner that sees a condition besides x, the bound holds for both together, hence for x alone.

    Returns:
        The bound, `math.inf` if a layer is not known or has none: `unbounded_layers` names it.

    Example:
        >>> lipschitz_bound(nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 4)))
    """
    memory = _remembered.get()
    if memory is None:
        return _bound(module)
    # The module is held, so that no other one can get its id.
    if id(module) not in memory:
        memory[id(module)] = (module, _bound(module))
    return memory[id(module)][1]


@contextmanager
def remembered() -> Iterator[None]:
    """Within the context, `lipschitz_bound` looks at each module once; parameters must not change meanwhile."""
    token = _remembered.set({}) if _remembered.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _remembered.reset(token)


def _bound(module: nn.Module) -> float:
    own = getattr(module, "lipschitz_bound", None)
    if callable(own):
        with torch.no_grad():
            value = float(own())  # pyright: ignore[reportArgumentType]
        return math.inf if math.isnan(value) else value
    if is_sequence(module):
        total = 1.0
        for layer in module.children():
            total = times(total, lipschitz_bound(layer))
        return outward(total, len(module._modules))
    found = layer_norm(module)
    return math.inf if found is None else found


def is_sequence(module: nn.Module) -> bool:
    """Whether a module runs its children one after the other, as `nn.Sequential` does."""
    plain = isinstance(module, nn.Sequential) and "forward" not in module.__dict__
    return plain and type(module).forward is nn.Sequential.forward


def unbounded_layers(module: nn.Module) -> list[str]:
    """Why a network has no Lipschitz bound: its layers without one, each with the reason; empty if it has a bound."""
    if math.isfinite(lipschitz_bound(module)):
        return []
    if known_as(module) is None or callable(getattr(module, "lipschitz_bound", None)):
        inner = [reason for child in module.children() for reason in unbounded_layers(child)]
        if inner:
            return list(dict.fromkeys(inner))
    return [_reason(module)]


def _reason(module: nn.Module) -> str:
    name = type(module).__name__
    if callable(getattr(module, "lipschitz_bound", None)):
        return f"{name}.lipschitz_bound() is infinite"
    if not all(bool(parameter.isfinite().all()) for parameter in module.parameters()):
        return f"{name} holds parameters that are not finite"
    kind = known_as(module)
    if kind is None:
        return f"the norm of {name} is not known: give it a method lipschitz_bound() -> float"
    if module.training and _has_bound_in_eval(module):
        return f"{name} has no bound in training mode: call eval()"
    return f"{name} is not Lipschitz with these arguments"


def _has_bound_in_eval(module: nn.Module) -> bool:
    kind = known_as(module)
    assert kind is not None
    try:
        module.training = False
        return math.isfinite(RULES[kind](module))
    finally:
        module.training = True
