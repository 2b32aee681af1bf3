"""Gram matrices of a linear map that are trigonometric polynomials of a frequency: those of convolutions."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

EPSILON = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}
# Single precision, three times as quick, is taken where all that rounding may hide is this part of an eigenvalue.
SINGLE = 4e-3
# Grids that are kept.
REMEMBERED = 64
# Entries of the matrices that are kept between their uses.
KEPT = 16_000_000


@dataclass(frozen=True)
class Frequencies:
    """Frequencies w = 2 pi point/turn, for every axis.

    Attributes:
        points: integers, (F, axes).
        turn: how many of them make a turn, for every axis.
    """

    points: Tensor
    turn: tuple[int, ...]

    def phases(self, offsets: Tensor, indices: Tensor) -> Tensor:
        """w offset summed over axes, for some frequencies, modulo whole turns: (L, axes), (m,) -> (m, L), float64."""
        turn = torch.tensor(self.turn, dtype=torch.long)
        # Reduced in integers, so that nothing is lost.
        turns = ((self.points[indices][:, None] * offsets) % turn).double() / turn.double()
        return 2 * math.pi * turns.sum(2)


@lru_cache(maxsize=REMEMBERED)
def half_grid(grid: tuple[int, ...], twisted: tuple[bool, ...]) -> Frequencies:
    """The frequencies 2 pi k/N of a grid, or 2 pi (k + 1/2)/N along twisted axes.

    One of w and -w suffices, for of real kernels the matrices at -w are the conjugates of those at w: of the first axis
    with more than one point half is left out.
    """
    axes = [torch.arange(size) * 2 + twist for size, twist in zip(grid, twisted, strict=True)]
    for index, size in enumerate(grid):
        if size > 1:
            axes[index] = axes[index][axes[index] <= size]
            break
    points = torch.cartesian_prod(*axes).reshape(-1, len(grid)) if axes else torch.zeros(1, 0, dtype=torch.long)
    return Frequencies(points, tuple(2 * size for size in grid))


class TrigonometricGrams:
    """G(w) = sum over lags of C_lag e^(i w lag), at the frequencies of a grid and for several groups.

    Args:
        lags: C, shape (lags, groups, n, n), float64.
        offsets: the lags, (lags, axes), integers.
        frequencies: see `Frequencies`.
        operations: how many products were added up in an entry of C.
        single: whether single precision may be used.
    """

    def __init__(
        self, lags: Tensor, offsets: Tensor, frequencies: Frequencies, operations: int, *, single: bool = True
    ) -> None:
        self.offsets, self.frequencies = offsets, frequencies
        self.groups, self.size = lags.shape[1], lags.shape[2]
        self.count = len(frequencies.points) * self.groups
        self.real = len(lags) == 1
        # Sum over lags of |C_lag|_F, relative to which entries are rounded; also a bound of every |G(w)|.
        self.total = float(lags.flatten(2).norm(dim=2).sum(0).max())
        self.operations = operations
        single = single and not self.real and self._cholesky(EPSILON[torch.float32]) <= SINGLE
        self.dtype = torch.float32 if single else torch.float64
        self.table = lags.flatten(1)
        self._kept: Tensor | None = None
        self.keep = self.count * self.size**2 <= KEPT

    def at(self, indices: Tensor) -> Tensor:
        """Matrices by their number, frequency times groups + group: (m,) -> (m, n, n)."""
        if not self.keep:
            return self._made(indices)
        if self._kept is None:
            self._kept = self._made(torch.arange(self.count))
        return self._kept if len(indices) == self.count else self._kept[indices.to(self._kept.device)]

    def _made(self, indices: Tensor) -> Tensor:
        frequencies, groups = indices // self.groups, indices % self.groups
        if self.real:
            matrices = self.table.sum(0, keepdim=True)
        else:
            angles = self.frequencies.phases(self.offsets, frequencies).to(self.table.device)
            # In float64, for torch may be told to take products in float32 with fewer bits.
            real, imaginary = angles.cos() @ self.table, angles.sin() @ self.table
            matrices = torch.complex(real.to(self.dtype), imaginary.to(self.dtype))
        if self.groups == 1:
            return matrices.unflatten(1, (self.size, self.size))
        matrices = matrices.unflatten(1, (self.groups, self.size, self.size))
        if self.real:
            return matrices[0, groups.to(matrices.device)]
        return matrices[torch.arange(len(indices), device=matrices.device), groups.to(matrices.device)]

    def margin(self, value: float) -> float:
        """Cholesky's rounding, at most `_cholesky` times the bound, and that of the entries."""
        working, double = EPSILON[self.dtype], EPSILON[torch.float64]
        entries = 2 * working + (len(self.table) + self.operations + 16) * double
        return value * self._cholesky(working) + entries * self.total

    def _cholesky(self, epsilon: float) -> float:
        # gamma_(n+1) tr(t I - G) <= (n + 2) n eps/2 t (Rump 2006); a complex product costs two more units, not n.
        return 2 * (self.size + 4) * self.size * epsilon / 2
