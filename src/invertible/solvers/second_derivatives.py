"""Derivatives that have none themselves, and say so."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invertible.errors import InvertibleError


class SecondDerivativeError(InvertibleError, RuntimeError):
    """The derivative of a derivative was asked for where only the first is known."""


def first_only(derivative: Tensor, message: str, *sources: Tensor) -> Tensor:
    """The same values, with a graph that raises when a derivative is taken.

    Args:
        derivative: a gradient, computed without a graph.
        message: what the error says.
        sources: tensors on which it depends in a way that is not known; none for a graph that ends here.
    """
    with torch.enable_grad():
        return _FirstOnly.apply(message, derivative if sources else derivative.detach().requires_grad_(), *sources)  # pyright: ignore[reportReturnType]


class _FirstOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, message: str, derivative: Tensor, *sources: Tensor) -> Tensor:  # noqa: ANN401
        ctx.message = message
        return derivative.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ANN401
        raise SecondDerivativeError(ctx.message)
