"""The norm of an operator, estimated from below."""

from __future__ import annotations

import torch
from torch import Tensor

from invertible.errors import DomainError, require_positive
from invertible.physics.operator import LinearOperator
from invertible.physics.randomness import seeded, standard_normal
from invertible.shapes import at_least_float32


def operator_norm(
    operator: LinearOperator, x: Tensor, *, iterations: int = 20, generator: torch.Generator | int | None = 0
) -> Tensor:
    """The largest singular value of A for every sample, by Lanczos iteration on A^H A.

    The square root of the largest Ritz value, so a lower estimate up to rounding, never a bound. It is exact in as many
    iterations as A^H A has distinct eigenvalues: two for a mask.

    Args:
        operator: A.
        x: a batch whose shape, dtype and device are taken, (B, c, *spatial).
        iterations: of one `normal` each.
        generator: for the start, a generator or a seed.

    Returns:
        (B,), in x's dtype.

    Raises:
        DomainError: if A^H A x is not finite.
    """
    require_positive("operator_norm", iterations=iterations)
    x = at_least_float32(x.detach())
    with torch.no_grad():
        direction = standard_normal(x, seeded(generator))
        direction = direction / _expand(_norm(direction), x)
        before, beta = torch.zeros_like(x), x.new_zeros(len(x))
        diagonal, beside = [], []
        for _ in range(iterations):
            image = operator.normal(direction)
            if not image.isfinite().all():
                raise DomainError("operator_norm: expected a finite A^H A x, got NaN or infinity.")
            alpha = (direction * image).flatten(1).sum(1)
            residual = image - _expand(alpha, x) * direction - _expand(beta, x) * before
            beta = _norm(residual)
            # A residual of rounding alone means that the space is invariant; what would follow is noise.
            beta = torch.where(beta > 16 * torch.finfo(x.dtype).eps * _norm(image), beta, 0)
            before, direction = direction, residual * _expand(torch.where(beta > 0, 1 / beta, 0), x)
            diagonal.append(alpha)
            beside.append(beta)
        off = torch.diag_embed(torch.stack(beside[:-1], 1), 1) if iterations > 1 else 0
        ritz = torch.diag_embed(torch.stack(diagonal, 1)) + off
        return torch.linalg.eigvalsh(ritz, UPLO="U")[:, -1].clamp(min=0).sqrt()


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def _expand(factors: Tensor, x: Tensor) -> Tensor:
    return factors.reshape(-1, *(1,) * (x.dim() - 1))
