"""Operators of others, and pairs of functions, as linear operators of this library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from invertible.errors import ConfigError
from invertible.physics.operator import LinearOperator
from invertible.physics.randomness import seeded, standard_normal

OWNER = "as_operator"
LinearMap = Callable[[Tensor], Tensor]


class FunctionOperator(LinearOperator):
    """An operator of functions; modules among their owners move with it.

    Args:
        apply: A.
        adjoint: A^H.
        normal: A^H A, where there is a cheaper one.
        source: the object that the functions belong to, kept as a submodule if it is a module.
    """

    def __init__(
        self, apply: LinearMap, adjoint: LinearMap, normal: LinearMap | None = None, source: object = None
    ) -> None:
        super().__init__()
        self._apply_map, self._adjoint_map, self._normal_map = apply, adjoint, normal
        self.source = source

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        return self._apply_map(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """A^H y."""
        return self._adjoint_map(y)

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x."""
        return super().normal(x) if self._normal_map is None else self._normal_map(x)


class DifferentiatedOperator(LinearOperator):
    """An operator of a linear function alone, whose adjoint is the vector-Jacobian product that autograd takes of it.

    The adjoint costs one call of the function and its backward pass, and is as exact as the function's derivative.

    Args:
        apply: A, linear and differentiable.
        x_shape: (c, *spatial) of x.
        source: the object that the function belongs to, kept as a submodule if it is a module.
    """

    def __init__(self, apply: LinearMap, x_shape: Sequence[int], source: object = None) -> None:
        super().__init__()
        self._apply_map = apply
        self.source = source
        self.x_shape = tuple(x_shape)

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        return self._apply_map(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """A^H y; differentiable in y where gradients are on."""
        keep_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            x = torch.zeros((len(y), *self.x_shape), dtype=y.real.dtype, device=y.device, requires_grad=True)
            (gradient,) = torch.autograd.grad(self._apply_map(x), x, y, create_graph=keep_graph)
        return gradient


def as_operator(
    physics: Any,  # noqa: ANN401 - an object of any library
    adjoint: LinearMap | None = None,
    *,
    x_shape: Sequence[int] | None = None,
) -> LinearOperator:
    """Take an operator from elsewhere.

    Args:
        physics: one of
            - a `LinearOperator`, returned as it is;
            - an object with `A` and `A_adjoint`, such as deepinv's `LinearPhysics`, whose `forward` adds noise and is
              not used; `A_adjoint_A` is the normal operator if it has one;
            - an object with `forward` and `adjoint`;
            - a function A of batches (B, c, *spatial), linear; with `adjoint`, or with `x_shape`.
        adjoint: A^H of a function.
        x_shape: (c, *spatial) of x, for a function without adjoint, which is then derived by autograd.

    Returns:
        The operator, which shares the object's tensors. Whether a given adjoint is one, `check_operator` tells.

    Raises:
        ConfigError: if it is none of these, or a function without adjoint is not linear or not differentiable.

    Example:
        >>> differences = as_operator(lambda x: x.diff(dim=-1), x_shape=(1, 32, 32))
        >>> x = differences.adjoint(torch.randn(8, 1, 32, 31))
    """
    if isinstance(physics, LinearOperator):
        return physics
    for names in (("A", "A_adjoint", "A_adjoint_A"), ("forward", "adjoint", "normal")):
        apply, transposed, normal = (_method(physics, name) for name in names)
        if apply is not None and transposed is not None:
            return FunctionOperator(apply, transposed, normal, physics)
    function = None if hasattr(physics, "A") else _method(physics, "__call__")
    if function is None:
        raise ConfigError(
            f"{OWNER}: expected physics with A and A_adjoint, or with forward and adjoint, or a linear function, got "
            f"{type(physics).__name__}. A map that is not linear has no adjoint."
        )
    if adjoint is not None:
        return FunctionOperator(function, adjoint, source=physics)
    if x_shape is None:
        raise ConfigError(
            f"{OWNER}: expected an adjoint for a function, got none. Give adjoint=..., or x_shape=(channels, height, "
            "width), and it is derived by autograd."
        )
    operator = DifferentiatedOperator(function, x_shape, physics)
    _check_linear(operator)
    return operator


def _method(owner: object, name: str) -> LinearMap | None:
    method = getattr(owner, name, None)
    return cast("LinearMap", method) if callable(method) else None


def _check_linear(operator: DifferentiatedOperator) -> None:
    """Check A(2 u - 3 v) = 2 A u - 3 A v on two random images, and that A can be differentiated.

    Raises:
        ConfigError: if it does not hold, or it cannot.
    """
    tensors = operator.source.parameters() if isinstance(operator.source, nn.Module) else iter(())
    reference = next(tensors, torch.empty(0))
    generator = seeded(0)
    u, v = (standard_normal(reference.new_empty((2, *operator.x_shape)), generator) for _ in range(2))
    with torch.no_grad():
        first, second, both = operator(u), operator(v), operator(2 * u - 3 * v)
        scale = 2 * first.abs().max() + 3 * second.abs().max()
        error = (both - (2 * first - 3 * second)).abs().max()
    bound = torch.finfo(both.dtype).eps ** 0.75
    if not error <= bound * scale:
        raise ConfigError(
            f"{OWNER}: expected a linear function, got one for which A(2 u - 3 v) differs from 2 A u - 3 A v by "
            f"{float(error):.1e} of {float(scale):.1e}. Subtract A(0) if it is affine; noise is added by add_noise."
        )
    try:
        operator.adjoint(first)
    except RuntimeError as error:
        raise ConfigError(
            f"{OWNER}: expected a function that autograd can differentiate, got one that it cannot ({error}). Give "
            "adjoint=..."
        ) from error
