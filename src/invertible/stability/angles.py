"""Angles between vectors that are spread over many tensors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Angle:
    """How far a vector v is from the vector u that it stands for.

    Attributes:
        name: of the group of parameters.
        degrees: the angle between u and v; NaN if an entry of either is not finite, 90 if one of them alone is 0.
        relative_norm: |v| / |u|, 1 if both are 0.
        relative_error: |u - v| / |u|, 0 if both are 0.
        non_finite: entries of v that are not finite.
        non_finite_expected: entries of u that are not finite.
        size: number of entries.
    """

    name: str
    degrees: float
    relative_norm: float
    relative_error: float
    non_finite: int
    non_finite_expected: int
    size: int


@dataclass(frozen=True)
class GradientAngles:
    """The memory-saving gradient against the stored one; `print` shows a table.

    Attributes:
        total: of all parameters together.
        groups: of every group of parameters, in the order of the model.
        reference: the stored gradient against that of float64; `None` if it was not asked for.
        losses: the loss with stored activations, with the strategy, and in float64; NaN where there is none.
        memory: the strategy.
        message: the error that the memory-saving pass raised, empty if none.
    """

    total: Angle
    groups: tuple[Angle, ...]
    reference: Angle | None
    losses: tuple[float, float, float]
    memory: str
    message: str = ""

    @property
    def worst_group(self) -> Angle:
        """The group whose gradient is off the most: the last one of those with NaN, else that of the largest angle.

        Backward starts at the last block, so that the last one with NaN is the one that lost it.
        """
        lost = [group for group in self.groups if math.isnan(group.degrees)]
        return lost[-1] if lost else max(self.groups, key=lambda group: group.degrees)

    def __str__(self) -> str:
        rows = [self.total, *self.groups, *([] if self.reference is None else [self.reference])]
        width = max(len(row.name) for row in rows) + 2
        header = f"{'':{width}}{'degrees':>10}{'|v|/|u|':>10}{'|u-v|/|u|':>11}{'not finite':>12}"
        lines = [f"stored gradient u against v of {self.memory}", header]
        lines += [_row(row, width) for row in (self.total, *self.groups)]
        if self.reference is not None:
            lines += ["float64 gradient u against v of stored activations", _row(self.reference, width)]
            if not math.isclose(self.losses[0], self.losses[2], rel_tol=1e-3, abs_tol=1e-6):
                lines.append(f"the losses themselves differ: {self.losses[0]:.6g} and {self.losses[2]:.6g} in float64")
        if self.message:
            lines.append(f"the memory-saving pass raised {self.message}")
        return "\n".join(lines)


def _row(row: Angle, width: int) -> str:
    lost = f"{row.non_finite}/{row.size}" if row.non_finite else "0"
    return f"{row.name:{width}}{row.degrees:10.2g}{row.relative_norm:10.4g}{row.relative_error:11.2g}{lost:>12}"


@torch.no_grad()
def angle(name: str, u: Sequence[Tensor], v: Sequence[Tensor]) -> Angle:
    """The angle 2 atan2(|u' - v'|, |u' + v'|) of the unit vectors u' and v', in float64 (Kahan 2006).

    Unlike arccos <u', v'> it keeps small angles: its resolution is that of float64. Vectors are scaled by their
    largest entries first, so that no square overflows or vanishes.

    Args:
        name: of what is compared.
        u: the vector expected, in pieces of any shapes.
        v: the other one, in pieces of the same shapes.
    """
    size = sum(piece.numel() for piece in u)
    bad_u, bad_v = (sum(int((~piece.isfinite()).sum()) for piece in pieces) for pieces in (u, v))
    if bad_u or bad_v:
        return Angle(name, math.nan, math.nan, math.nan, bad_v, bad_u, size)
    (top_u, norm_u), (top_v, norm_v) = _size(u), _size(v)
    if not (norm_u or norm_v):
        return Angle(name, 0.0, 1.0, 0.0, 0, 0, size)
    ratio = (top_v / top_u) * (norm_v / norm_u) if norm_u else math.inf
    minus = plus = error = 0.0
    for piece_u, piece_v in zip(u, v, strict=True):
        a, b = _divided(piece_u, top_u, norm_u), _divided(piece_v, top_v, norm_v)
        minus, plus = minus + float((a - b).square().sum()), plus + float((a + b).square().sum())
        # |u - v| / |u| is that of the unit vectors u' and |v|/|u| v'.
        error += float((a - ratio * b).square().sum()) if math.isfinite(ratio) else math.inf
    degrees = math.degrees(2 * math.atan2(math.sqrt(minus), math.sqrt(plus)))
    return Angle(name, degrees, ratio, math.sqrt(error), 0, 0, size)


def _size(pieces: Sequence[Tensor]) -> tuple[float, float]:
    """The largest entry, and the norm in units of it; both 0 for a zero vector."""
    top = max((float(piece.abs().max()) for piece in pieces if piece.numel()), default=0.0)
    return top, math.sqrt(sum(float(_divided(piece, top, 1.0).square().sum()) for piece in pieces))


def _divided(piece: Tensor, top: float, norm: float) -> Tensor:
    return piece.double() / top / norm if top else piece.double()
