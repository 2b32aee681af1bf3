"""A certified operator norm of a weight, and its derivative."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.blocks.lipschitz.eigenvalue import EXACT, eigenpair, largest_eigenvalue
from invertible.blocks.lipschitz.gram import TrigonometricGrams, half_grid
from invertible.errors import DomainError
from invertible.norms import outward


@dataclass(frozen=True)
class Certificate:
    """An upper bound of an operator norm.

    Attributes:
        bound: at least the norm, and at most 1.003 times it.
        slope: the norm's derivative with respect to the weight, of its shape: for the 2-norm u v^T of unit vectors
            with u^T W v = sigma (Miyato et al. 2018, appendix A), held constant.
        spread: by how much the norm can grow at most when every entry changes by a part u of itself, over u.
    """

    bound: float
    slope: Tensor
    spread: float


def scaled_to_one(owner: str, weight: Tensor) -> tuple[Tensor, float]:
    """The weight in float64, divided by a power of two so that no entry reaches 2, and that power.

    Raises:
        DomainError: if an entry is not finite.
    """
    double = weight.double()
    largest = float(double.abs().amax()) if double.numel() else 0.0
    if not math.isfinite(largest):
        raise DomainError(
            f"{owner}: expected a finite weight, got one with NaN or infinity, which no norm bounds. A training step "
            "has diverged: lower the learning rate, clip gradients, or load an earlier state."
        )
    power = 2.0 ** (math.frexp(largest)[1] - 1) if largest else 1.0
    return double / power, power


def matrix_certificate(owner: str, weight: Tensor) -> Certificate:
    """Of a matrix in the 2-norm, by the Gram matrix of its shorter side.

    Cost: one product of the shorter side m, m^2 n, and one decomposition or Cholesky factorisation, in float64.

    Args:
        owner: of the weight, for messages.
        weight: shape (m, n).
    """
    scaled, power = scaled_to_one(owner, weight)
    rows = scaled.shape[0] <= scaled.shape[1]
    gram = scaled @ scaled.mT if rows else scaled.mT @ scaled
    # An error of E has a norm of at most |E|_F.
    spread = outward(math.sqrt(float(gram.trace())), scaled.numel())
    if not spread:
        return Certificate(0.0, torch.zeros_like(weight), 0.0)
    bound, near = _largest(gram, max(scaled.shape))
    far = scaled.mT @ near if rows else scaled @ near
    far = far / far.norm()
    slope = torch.outer(near, far) if rows else torch.outer(far, near)
    return Certificate(outward(math.sqrt(bound)) * power, slope.to(weight.dtype), spread * power)


def _largest(gram: Tensor, terms: int) -> tuple[float, Tensor]:
    """Bound and vector of a Gram matrix' largest eigenvalue, of products of so many terms."""
    size = len(gram)
    if size <= EXACT:
        value, vector = eigenpair(gram)
        # Entries are off by terms eps/2 of |w_i| |w_j|, the matrix by that part of its trace, at most size eigenvalues.
        return outward(value, size * (size + terms)), vector
    grams = TrigonometricGrams(gram[None, None], torch.zeros(1, 0, dtype=torch.long), half_grid((), ()), terms)
    top = largest_eigenvalue(grams)
    return top.bound, top.vector


def sum_certificate(owner: str, weight: Tensor, sums: Tensor, counted: Tensor) -> Certificate:
    """Of a norm that is the largest of several sums of absolute values.

    Args:
        owner: of the weight, for messages.
        weight: of any shape.
        sums: the sums, float64, of any shape.
        counted: indicator of the entries in the largest sum, of the weight's shape.
    """
    largest = float(sums.amax()) if sums.numel() else 0.0
    if not math.isfinite(largest):
        scaled_to_one(owner, weight)
    bound = outward(largest, weight.numel())
    return Certificate(bound, weight.sign() * counted.to(weight.dtype), bound)
