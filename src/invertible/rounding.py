"""Rounding: to a grid of numbers, with a gradient; and by a GPU of what it multiplies."""

from collections.abc import Iterable
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


def rounds_to_tf32(device: torch.device | str, *, convolutions: bool) -> tuple[str, ...]:
    """The switches of torch by which a device rounds what it multiplies in float32 to the 10 bits of TF32.

    On a GPU torch sets the one for convolutions. Rounded so, entries jump by 1e-3 where an error of 1e-7 takes them
    across half a step, so that an inverse is good to about 1e-3 and not to 1e-6.

    Args:
        device: where it is computed; on a CPU there is none.
        convolutions: whether there are any, or products of matrices alone.
    """
    if torch.device(device).type != "cuda":
        return ()
    switches = {
        "torch.backends.cudnn.allow_tf32": convolutions and torch.backends.cudnn.allow_tf32,
        "torch.backends.cuda.matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
    }
    return tuple(name for name, on in switches.items() if on)


def tf32_hint(tensors: Iterable[Tensor]) -> str:
    """What to add to a message about lost digits; empty unless products of these tensors are rounded to TF32.

    Tensors of three axes and more may be convolved.
    """
    single = [x for x in tensors if x.dtype == torch.float32]
    switches = {name for x in single for name in rounds_to_tf32(x.device, convolutions=x.dim() > 2)}
    if not switches:
        return ""
    return f" This GPU rounds what it multiplies to TF32; {' = '.join(sorted(switches))} = False keeps float32."


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
