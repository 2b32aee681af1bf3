"""Linear systems of a batch, one matrix a sample, of which only products with vectors are known."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from invertible.shapes import at_least_float32
from invertible.solvers.samples import direction, flat, norm

Product = Callable[[Tensor], Tensor]
# A cycle that leaves more of the residual than this ends a sample: the next would do no better.
STALLED = 0.999


class LinearSolution(NamedTuple):
    """What `gmres` found.

    Attributes:
        x: of b's shape.
        residual: |A x - b| / |b| of that x, (B,), 0 where b is 0.
        products: how many products with A it took.
        converged: whether the residual met the tolerance or the floor of rounding, boolean of shape (B,).
    """

    x: Tensor
    residual: Tensor
    products: int
    converged: Tensor


# Rounding of A x alone is a few eps (|b| + |A| |x|); products in half precision round to their own eps.
FLOOR = 16


@torch.no_grad()
def gmres(
    product: Product, b: Tensor, *, tolerance: float | Tensor = 0.0, restart: int = 30, max_products: int = 1000
) -> LinearSolution:
    """Solve A x = b for every sample by restarted GMRES (Saad & Schultz 1986).

    A sample is solved if |A x - b| <= tolerance |b|, or <= 16 eps (|b| + |x|): rounding of A x allows no less where A
    is ill-conditioned (Rigal & Gaches 1967). The residual that decides is b - A x, computed anew at the end of every
    cycle. The Krylov space is orthogonalised twice. A sample whose residual is met adds nothing more to its space, so
    that its result does not depend on how long others take. Where the field of values of A lies in the right half
    plane, as that of I + J with |J|_2 < 1, it always converges (Elman 1982).

    Args:
        product: v -> A v, (B, ...) to (B, ...), linear, and each sample by itself.
        b: right-hand sides, (B, ...). Half precision is worked on in float32, but for the products.
        tolerance: relative to |b|; one number, or one a sample, (B,).
        restart: dimensions of the Krylov space, which is held in memory.
        max_products: give up after as many.

    Returns:
        The solution; samples that are not solved are marked, nothing is raised.

    Example:
        >>> solution = gmres(lambda v: v + 0.5 * v.roll(1, 1), torch.ones(8, 3), tolerance=1e-6)
    """
    right = flat(at_least_float32(b))

    def flat_product(v: Tensor) -> Tensor:
        return flat(product(v.reshape(b.shape).to(b.dtype)).to(right.dtype))

    size_b = norm(right)
    goal, floor = tolerance * size_b, FLOOR * torch.finfo(b.dtype).eps
    x, residual, left, products = torch.zeros_like(right), right, size_b, 0
    open_ = left > goal
    restart = max(1, min(restart, right.shape[1]))
    while products < max_products and bool(open_.any()):
        start = torch.where(open_[:, None], residual, 0)
        step, used = _cycle(flat_product, start, goal, min(restart, max_products - products))
        proposal = x + step
        residual_there = right - flat_product(proposal)
        left_there = norm(residual_there)
        products += used + 1
        better, stalled = open_ & (left_there < left), ~(left_there < STALLED * left)
        x = torch.where(better[:, None], proposal, x)
        residual = torch.where(better[:, None], residual_there, residual)
        left = torch.where(better, left_there, left)
        open_ = (left > torch.maximum(goal, floor * (size_b + norm(x)))) & open_ & ~stalled
    converged = left <= torch.maximum(goal, floor * (size_b + norm(x)))
    relative = left / torch.where(size_b > 0, size_b, 1)
    return LinearSolution(x.reshape(b.shape).to(b.dtype), relative, products, converged)


def _cycle(product: Product, residual: Tensor, goal: Tensor, steps: int) -> tuple[Tensor, int]:
    """The correction within one Krylov space, and the number of products."""
    batch, features = residual.shape
    first, length = direction(residual)
    basis = residual.new_zeros(batch, steps + 1, features)
    triangle = residual.new_zeros(batch, steps, steps)
    rhs = residual.new_zeros(batch, steps + 1)
    basis[:, 0], rhs[:, 0] = first, length
    rotations: list[tuple[Tensor, Tensor]] = []
    used = 0
    for j in range(steps):
        column, following = _orthogonalised(product(basis[:, j]), basis[:, : j + 1])
        used += 1
        for i, (cosine, sine) in enumerate(rotations):
            upper, lower = column[:, i].clone(), column[:, i + 1].clone()
            column[:, i], column[:, i + 1] = cosine * upper + sine * lower, cosine * lower - sine * upper
        hypotenuse = torch.hypot(column[:, j], column[:, j + 1])
        safe = torch.where(hypotenuse > 0, hypotenuse, 1)
        cosine = torch.where(hypotenuse > 0, column[:, j] / safe, 1)
        sine = column[:, j + 1] / safe
        rotations.append((cosine, sine))
        triangle[:, : j + 1, j] = column[:, : j + 1]
        triangle[:, j, j] = hypotenuse
        rhs[:, j + 1] = -sine * rhs[:, j]
        rhs[:, j] = cosine * rhs[:, j]
        # A zero vector leaves the sample's solution as it is.
        running = rhs[:, j + 1].abs() > goal
        basis[:, j + 1] = torch.where(running[:, None], following, 0)
        if not bool(running.any()):
            break
    basis, triangle = basis[:, :used], triangle[:, :used, :used]
    diagonal = triangle.diagonal(dim1=1, dim2=2)
    diagonal.masked_fill_(diagonal == 0, 1)
    # Right-hand sides behind the last step of a sample belong to no vector.
    present = (basis != 0).any(2)
    weights = torch.linalg.solve_triangular(triangle, torch.where(present, rhs[:, :used], 0)[:, :, None], upper=True)
    return torch.bmm(weights.transpose(1, 2), basis)[:, 0], used


def _orthogonalised(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of a vector in a basis and beyond, (B, j + 2), and the next basis vector."""
    coefficients = torch.zeros_like(basis[:, :, 0])
    for _ in range(2):
        part = torch.bmm(basis, vector[:, :, None])
        vector = vector - torch.bmm(part.transpose(1, 2), basis)[:, 0]
        coefficients = coefficients + part[:, :, 0]
    following, length = direction(vector)
    return torch.cat((coefficients, length[:, None]), 1), following
