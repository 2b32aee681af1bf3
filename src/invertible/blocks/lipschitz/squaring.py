"""The largest eigenvalue of a small Gram matrix from above, by repeated squaring in single precision."""

import math

import torch
from torch import Tensor

# Below the one a decomposition is as quick; above the other, or its square of entries, rounding costs more than 0.2 %.
SMALLEST, LARGEST = 33, 128
# Squaring ends when bounds of the norm from above and below agree to this part, or after so many squarings.
ENOUGH, SQUARINGS = 2e-3, 12
ROUNDING = 2.0**-24


def can_square(weight: Tensor) -> bool:
    """Whether a weight is of middle size, on the CPU, and products are taken in full precision.

    Of float64, too: a network in double precision is then the same map, for its weights are divided by the same number.
    """
    return (
        weight.device.type == "cpu"
        and SMALLEST <= min(weight.shape) <= LARGEST
        and weight.numel() <= LARGEST**2
        and torch.get_float32_matmul_precision() == "highest"
    )


def squared_eigenvalue(gram: Tensor, terms: int) -> tuple[float, Tensor]:
    """Bound of the largest eigenvalue of a positive semidefinite matrix that is not 0, and about its vector.

    |G^m|_F^(1/m) is an upper bound for every m, which exceeds the eigenvalue by a factor of at most n^(1/2m), and
    (|G^2m|_F/|G^m|_F)^(2/2m) is one from below (Delattre et al. 2023 bound Lipschitz constants by this Gram iteration).
    In front of each squaring the matrix is divided by its norm, whose logarithm is added up.

    Rounding: with u = 2^-24, the entries of G are off by terms u |w_i| |w_j|, a part terms n u of the eigenvalue. A
    square of h, |h|_F = 1, is off by n u in the F-norm, of an eigenvalue of at least 1/n: a part n^2 u, of which the
    root takes 1/m. Each is counted twice, for asymmetry and for the division.

    Args:
        gram: G of shape (n, n), float32, a product of W with itself.
        terms: how many products were added up in an entry.

    Returns:
        The bound, and a unit vector (n,).
    """
    size, power = len(gram), 1
    norm = float(torch.linalg.vector_norm(gram))
    logarithm, before, lost = math.log(norm), math.inf, terms * size * ROUNDING
    for _ in range(SQUARINGS):
        # tr G^2m <= lambda^m tr G^m, squared.
        if (2 * before - logarithm) / power < 2 * ENOUGH:
            break
        gram = gram / norm
        gram = gram @ gram
        norm = float(torch.linalg.vector_norm(gram))
        before, logarithm, power = logarithm, 2 * logarithm + math.log(norm), 2 * power
        lost += 2 * (size**2 + math.sqrt(size)) * ROUNDING / power
    vector = gram[:, int(gram.diagonal().argmax())]
    bound = math.exp(logarithm / power + 2 * size**2 * ROUNDING / power) * (1 + 2 * lost)
    return bound, vector / torch.linalg.vector_norm(vector)
