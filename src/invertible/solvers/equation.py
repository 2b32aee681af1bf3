"""The equation y = x + g(x) of a batch, with its residual measured and its evaluations counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.errors import ConvergenceError, ShapeError
from invertible.solvers.samples import flat, norm

# g(x, rows): the samples with the indices `rows`, int64, at x of shape (len(rows), ...).
Function = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Values:
    """One evaluation, of some samples, flat.

    Attributes:
        step: y - g(x) - x, minus the residual and the step of the plain iteration, (n, D).
        residual: its 2-norm, (n,); infinite where it is not finite.
        size: |x| + |g(x)| + |y|, (n,), against which residuals are measured.
    """

    step: Tensor
    residual: Tensor
    size: Tensor

    def __getitem__(self, samples: Tensor) -> Values:
        """Of some samples, by index or mask."""
        return Values(self.step[samples], self.residual[samples], self.size[samples])

    def where(self, mine: Tensor, other: Values) -> Values:
        """These values where `mine`, else the other's."""
        step = torch.where(mine[:, None], self.step, other.step)
        residual = torch.where(mine, self.residual, other.residual)
        return Values(step, residual, torch.where(mine, self.size, other.size))

    def clone(self) -> Values:
        """A copy that `set` may change."""
        return Values(self.step.clone(), self.residual.clone(), self.size.clone())

    def set(self, samples: Tensor, values: Values) -> None:
        """Replace those of some samples, in place."""
        self.step[samples], self.residual[samples], self.size[samples] = values.step, values.residual, values.size


class Equation:
    """y = x + g(x) on flat samples.

    Args:
        g: see `Function`.
        y: right-hand sides, (B, ...), of the dtype in which to iterate.
        tolerance: a sample is solved if |x + g(x) - y| <= tolerance (|x| + |g(x)| + |y|).
        owner: first word of messages.

    Attributes:
        evaluations: of g, by sample, products with its Jacobian included, (B,).
    """

    def __init__(self, g: Function, y: Tensor, tolerance: float, owner: str) -> None:
        self.tolerance, self.owner = tolerance, owner
        self._g, self._shape = g, y.shape[1:]
        self.y = flat(y)
        self.evaluations = torch.zeros(len(y), dtype=torch.int64, device=y.device)

    def g(self, x: Tensor, rows: Tensor) -> Tensor:
        """g at flat points of some samples, with whatever graph or tangent it has; counted."""
        value = self._g(x.reshape(len(rows), *self._shape), rows)
        if value.shape != (len(rows), *self._shape):
            raise ShapeError(
                f"{self.owner}: expected g to keep the shape {(len(rows), *self._shape)}, got {tuple(value.shape)}. "
                "x + g(x) needs a network of as many outputs as inputs."
            )
        self.evaluations[rows] += 1
        return flat(value.to(x.dtype))

    def at(self, x: Tensor, rows: Tensor) -> Values:
        """The residual at flat points of some samples."""
        value, y = self.g(x, rows).detach(), self.y[rows]
        step = y - value - x
        size = norm(x) + norm(value) + norm(y)
        residual = norm(step)
        return Values(step, torch.where(residual.isfinite(), residual, torch.inf), size)

    def solved(self, values: Values) -> Tensor:
        """Which samples are solved, (n,)."""
        return values.residual <= self.tolerance * values.size

    def at_the_floor(self, values: Values, factor: float) -> Tensor:
        """Which samples are as good as rounding may allow, (n,): within `factor` tolerances of 1 + |x| + |g(x)| + |y|.

        Close to the origin, rounding of the numbers inside of g is not small against those three.
        """
        return values.residual <= factor * self.tolerance * (1 + values.size)

    def require_finite(self, values: Values, rows: Tensor) -> None:
        """Raise if a residual is not finite.

        Raises:
            ConvergenceError: naming the first such sample.
        """
        bad = values.residual.isinf()
        if bool(bad.any()):
            first = int(bad.nonzero()[0, 0])
            sample, iterations = int(rows[first]), int(self.evaluations[rows[first]])
            raise ConvergenceError(
                f"{self.owner}: expected g(x) to be finite, got other values in sample {sample} at evaluation "
                f"{iterations} of solving y = x + g(x). Check the parameters of g; if it overflows where the "
                "search begins, pass start.",
                iterations=iterations,
                residual=torch.inf,
            )
