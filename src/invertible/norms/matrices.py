"""Norms of matrices: float64 SVD, and how far it can be off."""

import math

import torch
from torch import Tensor

from invertible.norms.rounding import EPSILON, outward


def matrix_norm(weight: Tensor) -> float:
    """Upper bound of a matrix' largest singular value, tight to rounding.

    A float64 SVD is backward stable: its values are those of a matrix off by a small multiple of eps |W|_2 (Golub &
    Van Loan 2013, section 8.6.3), and the result is widened by 4 (m + n) eps.

    Args:
        weight: shape (m, n).

    Returns:
        The bound, `math.inf` if an entry is not finite.
    """
    weight = _real(weight)
    if not weight.numel():
        return 0.0
    if not bool(weight.isfinite().all()):
        return math.inf
    return outward(float(torch.linalg.matrix_norm(weight, 2)), sum(weight.shape))


def two_sided_norms(weight: Tensor) -> tuple[float, float]:
    """Upper bounds of |W|_2 and |W^-1|_2 = 1/sigma_min.

    The error of the SVD is relative to the largest singular value, so the smallest is lowered by 8 n eps |W|_2.

    Args:
        weight: shape (n, n).

    Returns:
        The bounds; the second is `math.inf` for a matrix that is singular to float64's rounding.
    """
    weight = _real(weight)
    if not bool(weight.isfinite().all()):
        return math.inf, math.inf
    values = torch.linalg.svdvals(weight)
    largest, smallest, error = float(values[0]), float(values[-1]), 8 * len(weight) * EPSILON
    lowered = smallest - error * largest
    return outward(largest, sum(weight.shape)), outward(1 / lowered) if lowered > 0 else math.inf


def row_sum_norm(weight: Tensor) -> float:
    """Upper bound of max_i sum_j |W_ij|, the norm of a matrix for the largest entry of vectors."""
    weight = _real(weight)
    return outward(float(weight.abs().sum(1).max()), weight.shape[1])


def _real(weight: Tensor) -> Tensor:
    return weight.detach().cpu().double()
