"""The exact inverse of a discrete map from an approximate one, by defect correction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from invertible.errors import ConfigError, ConvergenceError, DomainError, ShapeError, require_positive
from invertible.shapes import finite_rows

Map = Callable[[Tensor], Tensor]

# Multiples of eps: of what one evaluation of F rounds, and of what the last digit of x changes.
ROUNDINGS = 64
# Corrections without a better residual after which the rest is rounding, or none will come.
PATIENCE = 3
# A residual that falls by less has too small a step.
SLOW = 0.4


def exact_inverse(
    forward: Map,
    approximate_inverse: Map,
    y: Tensor,
    *,
    tolerance: float | None = None,
    max_iterations: int = 50,
    owner: str = "exact_inverse",
) -> Tensor:
    """x with F(x) = y for a map F that is computed, given a map G that inverts it nearly.

    x_0 = G(y), then x <- x + s (G(y) - G(F(x))): by the mean value theorem the error is multiplied by I - s DG DF, that
    is by the error of G's derivative. For F a solver of an ordinary differential equation with steps of size h and
    order p, and G the same solver backward, that is O(h^p): two or three corrections reach rounding. The factor s is
    1, halved for samples whose residual does not fall, and doubled again where it falls slowly. Samples are judged,
    moved and stopped each by itself: the result does not depend on the others.

    The answer is certified by its residual, evaluated with F itself: |F(x) - y| <= tolerance (1 + |y|) for every
    sample. Where no `tolerance` is given and F expands so much that no x of the dtype meets 64 eps, the residual must
    be within 64 times what the last digits of x change: |F(x (1 + eps)) - F(x)|.

    Args:
        forward: F, (B, ...) to (B, ...), rows independent.
        approximate_inverse: G, likewise.
        y: shape (B, ...).
        tolerance: largest |F(x) - y|_2 / (1 + |y|_2) of a sample. `None`: 64 eps, or what rounding of x permits.
        max_iterations: corrections at most, each of one F and one G.
        owner: who asks, the first word of messages.

    Returns:
        x of y's shape and dtype, without graph.

    Raises:
        DomainError: if y is not finite.
        ConvergenceError: if a sample does not meet the tolerance: G does not invert F even nearly there.
        ConfigError: if tolerance or max_iterations is not positive.
        ShapeError: if F or G changes the shape.

    Cost: one F and one G a correction, on the whole batch; two evaluations of F more for a default tolerance that
    rounding does not permit.

    Reference: Stetter (1978), "The defect correction principle and discretization methods", iteration A.

    Example:
        >>> solve = FixedStepSolver("rk4", steps=8).solve
        >>> forward = lambda x: solve(lambda t, s: (s[0].sin(),), (x,), 0.0, 1.0).state[0]
        >>> backward = lambda y: solve(lambda t, s: (s[0].sin(),), (y,), 1.0, 0.0).state[0]
        >>> x = exact_inverse(forward, backward, forward(torch.ones(4, 2)))
    """
    require_positive(owner, max_iterations=max_iterations)
    if tolerance is not None and not tolerance > 0:
        raise ConfigError(f"{owner}: expected tolerance > 0, got {tolerance}. Leave it out for what rounding permits.")
    y = y.detach()
    finite = finite_rows(y)
    if not bool(finite.all()):
        raise DomainError(f"{owner}: expected finite y, got sample {int((~finite).nonzero()[0])} with NaN or infinity.")
    with torch.no_grad():
        return _Correction(forward, approximate_inverse, y, tolerance, owner).run(max_iterations)


@dataclass(frozen=True)
class _Correction:
    forward: Map
    approximate_inverse: Map
    y: Tensor
    tolerance: float | None
    owner: str

    def run(self, max_iterations: int) -> Tensor:
        y, eps = self.y, torch.finfo(self.y.dtype).eps
        allowed = (ROUNDINGS * eps if self.tolerance is None else self.tolerance) * (1 + _norms(y))
        start = self._call("approximate_inverse", self.approximate_inverse, y)
        x, candidate, step = start, start, torch.ones_like(allowed)
        best, correction = torch.full_like(allowed, torch.inf), torch.zeros_like(y)
        stalled = torch.zeros_like(allowed, dtype=torch.int64)
        iteration = 0
        while True:
            image = self._call("forward", self.forward, candidate)
            residual = _norms(image - y).nan_to_num(nan=torch.inf)
            better, slowly = residual < best, residual > SLOW * best
            x, best = torch.where(_rows(better, y), candidate, x), torch.where(better, residual, best)
            stalled = torch.where(better, 0, stalled + 1)
            open_rows = best > allowed
            if not bool(open_rows.any()):
                return x
            if iteration == max_iterations or bool((stalled >= PATIENCE)[open_rows].all()):
                return self._judged(x, best, allowed, iteration)
            iteration += 1
            fresh = start - self._call("approximate_inverse", self.approximate_inverse, image)
            # From the best point, by half the correction that did not help.
            correction = torch.where(_rows(better, y), fresh, correction)
            step = torch.where(better, torch.where(slowly, 2 * step, step).clamp(max=1.0), step / 2)
            moved = x + _rows(step, y).to(x.dtype) * correction
            candidate = torch.where(_rows(open_rows, y), moved, x)

    def _judged(self, x: Tensor, best: Tensor, allowed: Tensor, iterations: int) -> Tensor:
        """x if rounding is all that is left, where the user has set no tolerance."""
        if self.tolerance is None:
            eps = torch.finfo(x.dtype).eps
            shifted = _norms(self.forward(x + eps * x.abs()) - self.forward(x - eps * x.abs()))
            allowed = torch.maximum(allowed, ROUNDINGS * shifted.nan_to_num(nan=0.0))
        if bool((best <= allowed).all()):
            return x
        self._fail(best, allowed, iterations)

    def _fail(self, best: Tensor, allowed: Tensor, iterations: int) -> NoReturn:
        worst = int((best / allowed).nan_to_num(nan=torch.inf).argmax())
        residual = float(best[worst])
        raise ConvergenceError(
            f"{self.owner}: the inverse of sample {worst} has residual |F(x) - y| = {residual:.1e} after {iterations} "
            f"corrections, expected at most {float(allowed[worst]):.1e}. The approximate inverse is too far from the "
            "inverse there: take more or smaller steps, a field of smaller slope, or a larger tolerance.",
            iterations=iterations,
            residual=residual,
        )

    def _call(self, name: str, function: Map, x: Tensor) -> Tensor:
        result = function(x)
        if result.shape != self.y.shape:
            raise ShapeError(
                f"{self.owner}: expected {name} to keep the shape {tuple(self.y.shape)}, got {tuple(result.shape)}."
            )
        return result.detach()


def _norms(x: Tensor) -> Tensor:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.linalg.vector_norm(x.reshape(len(x), x.shape[1:].numel()), dim=1, dtype=dtype)


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))
