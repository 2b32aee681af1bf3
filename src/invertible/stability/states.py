"""Arithmetic on the states of a chain, tuples of a few tensors (B, ...), and derivatives of maps of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from invertible.memory.step import State
from invertible.stability.batches import per_row
from invertible.stability.passage import LOST

Move = Callable[[State, Tensor | None], State]


def derivative(move: Move, state: State, tangent: State, condition: Tensor | None) -> tuple[State, State]:
    """A map of a few tensors and its derivative along a tangent, in forward mode.

    Where forward mode is not to be had, or a map cuts it off so that nothing arrives, by a difference quotient.
    """
    try:
        with forward_ad.dual_level():
            duals = tuple(forward_ad.make_dual(x, t) for x, t in zip(state, tangent, strict=True))
            pairs = [forward_ad.unpack_dual(each) for each in move(duals, condition)]
            value = tuple(pair.primal for pair in pairs)
            along = tuple(torch.zeros_like(p) if t is None else t for p, t in pairs)
    except LOST:
        raise
    except RuntimeError:
        # Some operation has no derivative in forward mode.
        return _difference(move, state, tangent, condition)
    if any(bool(t.any()) for t in tangent) and not any(bool(t.any()) for t in along):
        return _difference(move, state, tangent, condition)
    return value, along


def _difference(move: Move, state: State, tangent: State, condition: Tensor | None) -> tuple[State, State]:
    """(move(x + h t) - move(x)) / h, h the square root of eps on the scale of x: half of the digits."""
    eps = torch.finfo(state[0].dtype).eps
    step = eps**0.5 * norm(state).clamp(min=1.0)
    value = move(state, condition)
    moved = move(plus(state, scaled(tangent, step)), condition)
    return value, scaled(minus(moved, value), 1 / step)


def chosen(rows: Tensor, a: State, b: State) -> State:
    """a in the samples `rows`, boolean of shape (B,), and b in the others."""
    return tuple(torch.where(per_row(rows, x), x, z) for x, z in zip(a, b, strict=True))


def unknown(state: State) -> State:
    """NaN in place of every number."""
    return tuple(torch.full_like(x, torch.nan) for x in state)


def replaced(state: State, rows: Tensor, by: State) -> State:
    """The rows of the given indices taken from another state, whose rows those are."""
    return tuple(x.index_copy(0, rows.to(x.device), z) for x, z in zip(state, by, strict=True))


def norm(state: State) -> Tensor:
    """The 2-norm over all tensors of a state, per sample."""
    each = [torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1, dtype=_wide(x)) for x in state]
    return torch.linalg.vector_norm(torch.stack(each), dim=0)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def positive(size: Tensor) -> Tensor:
    """The sizes, 1 where they are 0, to divide by."""
    return torch.where(size > 0, size, 1.0)


def scaled(state: State, factor: Tensor) -> State:
    """Every sample times its factor; factors of shape (B,)."""
    return tuple((x * per_row(factor, x)).to(x.dtype) for x in state)


def plus(a: State, b: State) -> State:
    """The sum of two states."""
    return tuple(x + z for x, z in zip(a, b, strict=True))


def minus(a: State, b: State) -> State:
    """The difference of two states."""
    return tuple(x - z for x, z in zip(a, b, strict=True))


def cast(state: State, dtype: torch.dtype) -> State:
    """All tensors in another dtype."""
    return tuple(x.to(dtype) for x in state)


def tiled(state: State, times: int) -> State:
    """The batch several times over."""
    return tuple(x.repeat(times, *[1] * (x.dim() - 1)) for x in state)


def repeated(condition: Tensor | None, times: int) -> Tensor | None:
    """The condition of `tiled`."""
    return None if condition is None else tiled((condition,), times)[0]


def signs(x: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs, of the shape of x."""
    return (2 * torch.randint(0, 2, x.shape, generator=generator) - 1).to(x)
