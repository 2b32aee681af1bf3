"""Rounding to a grid of numbers, with a gradient."""

from typing import Any

import torch
from torch import Tensor


def round_to_grid(x: Tensor, bits: int) -> Tensor:
    """The nearest multiple of 2^-bits, in float64, half to even; its gradient is that of the identity.

    float64 holds every multiple up to 2^(53 - bits), and adds and subtracts them without rounding. From 2^(51 - bits)
    on the result is a multiple of a larger power of two. The straight-through gradient is that of Bengio, Leonard &
    Courville (2013).

    Args:
        x: any shape, floating point.
        bits: number of binary digits behind the point.
    """
    if torch._C._are_functorch_transforms_active():
        # What they cannot see through; the same numbers, but for infinity.
        x = x.double()
        return x + (_rounded(x, bits) - x).detach()
    return _RoundToGrid.apply(x, bits)  # pyright: ignore[reportReturnType]


def _rounded(x: Tensor, bits: int) -> Tensor:
    # Added to a number whose last digit is 2^-bits, x keeps no smaller one; twice as quick as scale and round.
    anchor = 1.5 * 2.0 ** (52 - bits)
    return (x.double() + anchor).sub_(anchor)


class _RoundToGrid(torch.autograd.Function):
    # With a forward of the older style: one that has setup_context costs 0.1 ms more a call.
    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int) -> Tensor:  # noqa: ANN401
        ctx.dtype = x.dtype
        return _rounded(x, bits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return grads[0].to(ctx.dtype), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:  # noqa: ANN401
        return tangents[0].double()
