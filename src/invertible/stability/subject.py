"""What is measured: the bijection of a model and its condition, in a state in which it can be differentiated."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.errors import ConfigError, ShapeError
from invertible.memory import owners, strategy
from invertible.stability.undisturbed import undisturbed


def bijection_of(owner: str, f: nn.Module) -> Bijection:
    """The bijection itself, or that of a flow.

    Raises:
        ConfigError: if there is none.
    """
    found = f if isinstance(f, Bijection) else getattr(f, "bijection", None)
    if not isinstance(found, Bijection):
        raise ConfigError(
            f"{owner}: expected f to be a Bijection or a Flow, got {type(f).__name__}. Give another library's flow "
            "as invertible.adapt(f)."
        )
    return found


def condition_of(f: nn.Module, bijection: Bijection, condition: Tensor | None, like: Tensor) -> Tensor | None:
    """The condition as the bijection takes it: labels one-hot, and none if only the flow's base takes one."""
    classes = getattr(f, "classes", None)
    if condition is not None and classes is not None and not condition.is_floating_point():
        condition = nn.functional.one_hot(condition.long(), classes).to(like)
    if not bijection.condition_features and getattr(f, "condition_features", 0):
        return None
    return condition


def check_batch(owner: str, name: str, x: Tensor, condition: Tensor | None) -> None:
    """Check that x is a floating-point batch that is not empty, and the condition of as many rows.

    Raises:
        ShapeError: naming what came.
    """
    if x.dim() < 2 or not len(x) or not x[:1].numel() or not x.is_floating_point():
        raise ShapeError(
            f"{owner}: expected {name} of a floating-point dtype and of shape (batch, ...), not empty, got {x.dtype} "
            f"of shape {tuple(x.shape)}."
        )
    if condition is not None and len(condition) != len(x):
        raise ShapeError(
            f"{owner}: expected a condition of {len(x)} rows, one for each of {name}, got {len(condition)}."
        )


def seeded(generator: torch.Generator | int | None) -> torch.Generator:
    """A generator from a seed, 0 if `None`."""
    return generator if isinstance(generator, torch.Generator) else torch.Generator().manual_seed(generator or 0)


@contextmanager
def differentiable(f: nn.Module, seed: int = 0) -> Iterator[None]:
    """Run the body with f in eval mode, its parameters constant, and plain autograd through all chains.

    Derivatives are taken with respect to inputs alone, which halves the cost of a backward pass. Afterwards everything
    is as before.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in f.parameters()]
    chains = [(chain, dict(chain.__dict__)) for chain in owners(f)]
    with undisturbed(f, seed):
        try:
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            for chain, _ in chains:
                chain.memory = strategy("store")
            yield
        finally:
            for chain, before in chains:
                chain.__dict__.update({name: before[name] for name in ("_memory", "memory_log", "inverse_memory_log")})
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
