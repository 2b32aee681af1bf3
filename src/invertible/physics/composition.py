"""Operators made of operators: one after the other, and side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invertible.errors import ConfigError, ShapeError
from invertible.physics.operator import LinearOperator


class Composition(LinearOperator):
    """A_1 A_2 ... A_n, applied from the right as matrices are; A^H = A_n^H ... A_1^H.

    Args:
        operators: A_1, ..., A_n; what all but the first give are real images.

    Raises:
        ConfigError: if there is none.

    Example:
        >>> seen_after_blur = Composition(Inpainting(mask), Blur(gaussian_kernel(1.0)))
    """

    def __init__(self, *operators: LinearOperator) -> None:
        super().__init__()
        self.operators = _listed("Composition", operators)

    def forward(self, x: Tensor) -> Tensor:
        """A_1 (A_2 (... A_n x))."""
        for operator in reversed(self.operators):
            x = operator(x)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """A_n^H (... (A_1^H y))."""
        for operator in _members(self.operators):
            y = operator.adjoint(y)
        return y

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x, with A_1's own `normal` in the middle."""
        outer, *inner = _members(self.operators)
        for operator in reversed(inner):
            x = operator(x)
        x = outer.normal(x)
        for operator in inner:
            x = operator.adjoint(x)
        return x

    def measured(self, y: Tensor) -> Tensor:
        """What A_1 measures."""
        return _members(self.operators)[0].measured(y)


class Stack(LinearOperator):
    """Several observations of one image: A x = (A_1 x, ..., A_n x) on axis 1, A^H y = sum_i A_i^H y_i.

    Args:
        operators: A_i, whose data are of one shape and dtype.

    Raises:
        ConfigError: if there is none.
        ShapeError: if their data are not of one shape, or y does not hold one for each.
    """

    def __init__(self, *operators: LinearOperator) -> None:
        super().__init__()
        self.operators = _listed("Stack", operators)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, ...)."""
        data = [operator(x) for operator in self.operators]
        if len({(each.shape, each.dtype) for each in data}) > 1:
            shapes = ", ".join(f"{tuple(each.shape)} of {each.dtype}" for each in data)
            raise ShapeError(f"Stack: expected data of one shape and dtype, got {shapes}.")
        return torch.stack(data, 1)

    def adjoint(self, y: Tensor) -> Tensor:
        """sum_i A_i^H y_i."""
        parts = zip(_members(self.operators), self._parts(y), strict=True)
        return torch.stack([operator.adjoint(part) for operator, part in parts]).sum(0)

    def normal(self, x: Tensor) -> Tensor:
        """sum_i A_i^H A_i x."""
        return torch.stack([operator.normal(x) for operator in _members(self.operators)]).sum(0)

    def measured(self, y: Tensor) -> Tensor:
        """What each measures."""
        parts = zip(_members(self.operators), self._parts(y), strict=True)
        return torch.stack([operator.measured(part) for operator, part in parts], 1)

    def _parts(self, y: Tensor) -> tuple[Tensor, ...]:
        if y.dim() < 2 or y.shape[1] != len(self.operators):
            raise ShapeError(
                f"Stack: expected data of shape (batch, {len(self.operators)}, ...), got {tuple(y.shape)}."
            )
        return y.unbind(1)


def _listed(owner: str, operators: tuple[LinearOperator, ...]) -> nn.ModuleList:
    if not operators:
        raise ConfigError(f"{owner}: expected at least one operator, got none.")
    for each in operators:
        if not isinstance(each, LinearOperator):
            raise ConfigError(
                f"{owner}: expected operators to be of LinearOperator, got {type(each).__name__}. "
                "Wrap it: invertible.physics.adapters.as_operator(it)."
            )
    return nn.ModuleList(operators)


def _members(modules: nn.ModuleList) -> list[LinearOperator]:
    """The members by their type, which `ModuleList` forgets."""
    return [module for module in modules if isinstance(module, LinearOperator)]
