"""The norm of a convolution on an infinite grid: the maximum of its transfer function, certified."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.norms.rounding import outward

# Grids are refined until they lose no more than 1 - cos(0.1) = 0.5 %, or until so many multiplications are spent.
ENOUGH = 0.1
WORK = 4e9
# Entries of the matrices that are held at once.
CHUNK = 4_000_000


@dataclass(frozen=True)
class SymbolNorm:
    """A bound, and how much of it may be slack.

    Attributes:
        value: at least sup |K^(w)|_2; `math.inf` if the kernel is too large to look at.
        slack: value/sup is at most this.
    """

    value: float
    slack: float


def symbol_norm(kernel: Tensor, work: float = WORK) -> SymbolNorm:
    """Certified upper bound of sup_w |K^(w)|_2, K^(w) = sum_k K_k e^(i k w) over the taps k.

    That supremum is the norm of the convolution on the infinite grid, and bounds the one with zero padding at every
    image size, of which the operator is a part (Böttcher & Grudsky 2005, chapter 1).

    For a unit vector u, p(w) = |K^(w) u|^2 is a trigonometric polynomial of degree n - 1, n the kernel's size, with
    0 <= p <= S, S the supremum's square. By the inequality of Bernstein and Szegö arccos(2 p/S - 1) changes by at most
    (n - 1) |w - w'|; so at the point of a grid of M that is nearest to the maximum, at most pi/M away,
    p >= S cos^2(pi (n - 1)/(2 M)), and with several axes the angles add up. Hence sup <= (maximum on the grid)/cos.
    By the same argument the maximum lies in no cell whose grid value is below cos times the largest one: only the
    others are refined.

    Args:
        kernel: shape (groups, out, in, *sizes), float64.
        work: about how many multiplications may be spent.
    """
    degrees = [size - 1 for size in kernel.shape[3:]]
    grid = [1 if degree == 0 else 2 ** math.ceil(math.log2(4 * degree)) for degree in degrees]
    groups, rows, columns = kernel.shape[:3]
    inner, taps = min(rows, columns), kernel[0, 0, 0].numel()
    cost = groups * (rows * columns * (taps + inner) + 12 * inner**3)
    indices = _half_grid(grid)
    if not kernel.any():
        return SymbolNorm(0.0, 1.0)
    if len(indices) * cost > work or not bool(kernel.isfinite().all()):
        return SymbolNorm(math.inf, math.inf)
    values = _norms(kernel, indices, grid)
    while True:
        work -= len(indices) * cost
        angle = sum(math.pi * degree / (2 * size) for degree, size in zip(degrees, grid, strict=True))
        largest = float(values.max())
        if angle <= ENOUGH:
            break
        alive = indices[values >= largest * math.cos(angle) * (1 - 1e-9)]
        finer = [size if degree == 0 else 2 * size for degree, size in zip(degrees, grid, strict=True)]
        children = _children(alive, degrees, finer)
        if len(children) * cost > work:
            break
        indices, grid, values = children, finer, _norms(kernel, children, finer)
    # Sums over taps are rounded relative to sum |K_k| <= sqrt(taps inner) sup.
    operations = rows + columns + taps * math.sqrt(taps * inner)
    return SymbolNorm(outward(largest / math.cos(angle), operations), 1 / math.cos(angle))


def _half_grid(grid: list[int]) -> Tensor:
    """Indices of all points, (N, axes), but for half of one axis: |K^(-w)| = |K^(w)| for a real kernel."""
    axes = [torch.arange(size) for size in grid]
    for index, size in enumerate(grid):
        if size > 1:
            axes[index] = torch.arange(size // 2 + 1)
            break
    return torch.cartesian_prod(*axes).reshape(-1, len(grid)) if axes else torch.zeros(1, 0, dtype=torch.long)


def _children(indices: Tensor, degrees: list[int], finer: list[int]) -> Tensor:
    """The points of the finer grid that can be nearest to a point of the given cells."""
    steps = [torch.tensor([-1, 0, 1]) if degree else torch.tensor([0]) for degree in degrees]
    offsets = torch.cartesian_prod(*steps).reshape(-1, len(degrees))
    factors = torch.tensor([2 if degree else 1 for degree in degrees])
    children = (indices[:, None] * factors + offsets).reshape(-1, len(degrees)) % torch.tensor(finer)
    # Each once: numbered by a mixed radix, for unique on rows is slow.
    radix = torch.tensor([math.prod(finer[axis + 1 :]) for axis in range(len(finer))])
    numbers = torch.unique((children * radix).sum(1))
    return (numbers[:, None] // radix) % torch.tensor(finer)


def _norms(kernel: Tensor, indices: Tensor, grid: list[int]) -> Tensor:
    """|K^(w)|_2 at points w = 2 pi index/grid, the largest over groups, (N,)."""
    groups, rows, columns = kernel.shape[:3]
    taps = kernel.flatten(3)
    positions = torch.cartesian_prod(*[torch.arange(size) for size in kernel.shape[3:]]).reshape(-1, len(grid))
    step = max(1, CHUNK // (groups * rows * columns))
    norms = []
    for some in indices.split(step):
        # Reduced modulo the grid in whole numbers, so that the phase loses nothing.
        turns = ((some[:, None] * positions) % torch.tensor(grid)) / torch.tensor(grid, dtype=torch.float64)
        phase = 2 * math.pi * turns.sum(2)
        matrices = torch.complex(
            torch.einsum("goit,nt->ngoi", taps, phase.cos()), torch.einsum("goit,nt->ngoi", taps, phase.sin())
        )
        gram = matrices.mH @ matrices if columns <= rows else matrices @ matrices.mH
        norms.append(torch.linalg.eigvalsh(gram)[..., -1].clamp_min(0).sqrt().amax(1))
    return torch.cat(norms)
