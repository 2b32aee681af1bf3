"""Least squares by conjugate gradients: for coils with sensitivities, the iterative SENSE reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

from invertible.errors import ConfigError, require_positive
from invertible.physics.operator import Observation
from invertible.physics.solution import Progress, Solution, first_estimate, require_finite, row_products, weights

OWNER = "least_squares"


def least_squares(
    observation: Observation,
    regularisation: float | Tensor = 0.0,
    *,
    iterations: int = 50,
    tolerance: float = 1e-5,
    start: Tensor | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Minimise |A x - y|^2 / 2 + lambda |x|^2 / 2 by conjugate gradients on (A^H A + lambda) x = A^H y.

    CG-SENSE (Pruessmann et al., 2001) for multi-coil MRI with sensitivities; Tikhonov's solution for lambda > 0. From a
    start of zero and without lambda it approaches the solution of least norm, and stopping early regularises.

    Every sample has its own step lengths and stops on its own, when |A^H y - (A^H A + lambda) x| is at most tolerance
    times |A^H y|. The residual is the one that the recurrence carries, which drifts from the true one by rounding: in
    float32 tolerances below about 1e-6 are not met in truth.

    Args:
        observation: y and A.
        regularisation: lambda >= 0, one or (B,).
        iterations: at most, of one A^H A each.
        tolerance: relative, at least 0.
        start: first estimate (B, c, *spatial); zero by default.
        progress: called after every iteration with its number and the worst relative residual.

    Returns:
        The solution; its objective is taken at the start and at the end.

    Raises:
        ConfigError: if an argument is out of range.
        ShapeError: if `start` is not of the shape of A^H y.
        DomainError: if data or iterates are not finite.
    """
    require_positive(OWNER, iterations=iterations)
    if not 0 <= tolerance < 1:
        raise ConfigError(f"{OWNER}: expected tolerance of at least 0 and below 1, got {tolerance}.")
    require_finite(OWNER, "data", observation.data)
    with torch.no_grad():
        target = observation.backprojection()
        weight = weights(OWNER, "regularisation", regularisation, target, positive=False)
        x = first_estimate(OWNER, start, torch.zeros_like(target))

        def apply(v: Tensor) -> Tensor:
            return observation.operator.normal(v) + weight * v

        first = _objective(observation, x, weight)
        size = row_products(target, target).sqrt()
        residual = target - apply(x)
        direction, squared = residual, row_products(residual, residual)
        relative, number = _relative(squared, size), 0
        history = [relative]
        while number < iterations and bool((relative > tolerance).any()):
            image = apply(direction)
            curvature = row_products(direction, image)
            # Samples that are done stay where they are; a curvature of zero means that nothing is left to gain.
            length = torch.where((relative > tolerance) & (curvature > 0), squared / curvature, 0)
            x = x + _shaped(length, x) * direction
            residual = residual - _shaped(length, x) * image
            before, squared = squared, row_products(residual, residual)
            direction = residual + _shaped(torch.where(before > 0, squared / before, 0), x) * direction
            relative, number = _relative(squared, size), number + 1
            require_finite(OWNER, "iterates", relative)
            if progress is not None:
                progress(number, float(relative.max()))
        objective = (first, _objective(observation, x, weight))
        return Solution(x, objective, (history[0], relative), (0, number), relative <= tolerance)


def _objective(observation: Observation, x: Tensor, weight: Tensor) -> Tensor:
    difference = observation.operator(x) - observation.data
    return (row_products(difference, difference) + row_products(weight * x, x)) / 2


def _relative(squared: Tensor, size: Tensor) -> Tensor:
    return torch.where(size > 0, squared.sqrt() / size, squared.sqrt())


def _shaped(factors: Tensor, x: Tensor) -> Tensor:
    return factors.to(x.dtype).reshape(-1, *(1,) * (x.dim() - 1))
