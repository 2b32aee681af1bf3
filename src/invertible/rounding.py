"""Rounding to a grid of numbers, with a gradient."""

from typing import Any

import torch
from torch import Tensor


def round_to_grid(x: Tensor, bits: int) -> Tensor:
    """The nearest multiple of 2^-bits, in float64, half to even; its gradient is that of the identity.

    float64 holds every multiple up to 2^(53 - bits), and adds and subtracts them without rounding. The straight-
    through gradient is that of Bengio, Leonard & Courville (2013).

    Args:
        x: any shape, floating point.
        bits: number of binary digits behind the point.
    """
    return _RoundToGrid.apply(x, bits)  # pyright: ignore[reportReturnType]


class _RoundToGrid(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bits: int) -> Tensor:
        scale = 2.0**bits
        return x.double().mul(scale).round_().mul_(1 / scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:  # noqa: ANN401
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return grads[0].to(ctx.dtype), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:  # noqa: ANN401
        return tangents[0].double()
