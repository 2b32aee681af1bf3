"""A value whose gradient is right, and whose gradient's gradient is refused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from invertible.solvers.second_derivatives import first_only

FIRST_ONLY = (
    "ResidualBlock: the Neumann gradient of log_det has no derivative of its own, and one was taken. Build the "
    "block with gradient='autograd', or with log_det='exact'."
)


def differentiable_once(x: Tensor) -> Tensor:
    """The same values and first derivatives; a derivative of a derivative raises, and is not wrong in silence."""
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return x
    return _Once.apply(x)  # pyright: ignore[reportReturnType]


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        (gradient,) = gradients
        return first_only(gradient, FIRST_ONLY) if torch.is_grad_enabled() else gradient
