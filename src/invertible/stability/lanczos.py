"""Largest singular values of a batch of linear maps that are known by their products alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.stability.batches import per_row
from invertible.stability.products import dot, norm, ratio, times

Product = Callable[[Tensor], Tensor]

# Up to this step convergence is looked at after each, then after every fourth: a look takes an SVD of each sample.
EVERY_STEP = 8


@dataclass(frozen=True)
class Largest:
    """Largest singular values, from below.

    Attributes:
        values: float64 of shape (B, k), largest first; no value exceeds the true one.
        converged: samples whose k triplets (u, s, v) all have |J^T u - s v| <= tolerance s, boolean of shape (B,).
        iterations: how many products were taken with J, and as many with J^T.
    """

    values: Tensor
    converged: Tensor
    iterations: int


def largest_singular_values(
    product: Product, transposed: Product, start: Tensor, k: int, iterations: int, tolerance: float
) -> Largest:
    """The k largest singular values of each sample's map by Golub-Kahan bidiagonalisation.

    Orthonormal U and V with J V = U R, R upper bidiagonal (Golub & Kahan 1965), orthogonalised against all earlier
    vectors. The singular values of R = U^T J V interlace those of J, so each is a lower bound of its own.

    Args:
        product: v -> J v, x's shape to y's shape.
        transposed: w -> J^T w, y's shape to x's shape.
        start: random vectors, of x's shape (B, ...).
        k: how many values.
        iterations: at most.
        tolerance: relative, of the residual.
    """
    dimensions = start[0].numel()
    iterations = min(max(iterations, k), dimensions)
    space = _Krylov(product, transposed, start)
    step, values, converged = 0, start.new_zeros(len(start), k), norm(start) < 0
    while step < iterations and not bool(converged.all()):
        space.extend()
        step += 1
        if step >= k and (step == iterations or step <= EVERY_STEP or step % 4 == 0):
            values, residual = space.ritz(k)
            seen = (space.exhaustions == 0) | (space.exhaustions >= k)
            converged = ((residual <= tolerance * values).all(1) & seen) | (step == dimensions)
    return Largest(values.double().cpu(), converged.cpu(), step)


class _Krylov:
    """U, V and R after some steps."""

    def __init__(self, product: Product, transposed: Product, start: Tensor) -> None:
        self.product, self.transposed, self.start = product, transposed, start
        self.left: list[Tensor] = []
        self.right: list[Tensor] = []
        self.alphas: list[Tensor] = []
        self.betas: list[Tensor] = []
        self.next = _unit(start)
        # A value that is there k times is found once in each of k spaces.
        self.exhaustions = torch.zeros(len(start), dtype=torch.long, device=start.device)

    def extend(self) -> None:
        """One more column of each."""
        self.right.append(self.next)
        u = _orthogonalised(self.product(self.next), self.left)
        self.alphas.append(norm(u))
        self.left.append(_unit(u))
        w = _orthogonalised(self.transposed(self.left[-1]), self.right)
        self.betas.append(norm(w))
        self._restart(w)

    def _restart(self, w: Tensor) -> None:
        """The next right vector; a new direction where the Krylov space is exhausted.

        That of an isometry is after one step, and a singular value that is there twice would be found once.
        """
        rounding = 64 * torch.finfo(w.dtype).eps * torch.stack(self.alphas).amax(0)
        exhausted = self.betas[-1] <= rounding
        self.next = _unit(w)
        self.exhaustions += exhausted
        if bool(exhausted.any()):
            # Rolled, a random vector is as good as another one.
            rolled = self.start.reshape(len(w), -1).roll(len(self.right), 1).reshape(w.shape)
            fresh = _unit(_orthogonalised(rolled, self.right))
            chosen = per_row(exhausted, w)
            self.next = torch.where(chosen, fresh, self.next)
            self.betas[-1] = torch.where(exhausted, 0, self.betas[-1])

    def ritz(self, k: int) -> tuple[Tensor, Tensor]:
        """The k largest singular values of R, and the residuals of their triplets: (B, k) both."""
        diagonal, above = torch.stack(self.alphas, 1), torch.stack(self.betas, 1)
        u, values, _ = torch.linalg.svd(torch.diag_embed(diagonal) + torch.diag_embed(above[:, :-1], 1))
        return values[:, :k], above[:, -1:] * u[:, -1, :k].abs()


def _unit(a: Tensor) -> Tensor:
    size = norm(a)
    return times(ratio(torch.ones_like(size), size), a)


def _orthogonalised(a: Tensor, others: list[Tensor]) -> Tensor:
    # Twice, for once leaves what rounding makes of the difference.
    for _ in range(2):
        for other in others:
            a = a - times(dot(a, other), other)
    return a
