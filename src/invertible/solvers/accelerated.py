"""Plain and accelerated iterations for y = x + g(x), safeguarded and stopped sample by sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.solvers.anderson import Mixture
from invertible.solvers.equation import Equation, Values

# A sample stalls if so many evaluations have not halved its residual.
PATIENCE = 12
# In units of eps |x|: what rounding adds to a residual, by which a step of a slow contraction may seem to fail.
NOISE = 2


@dataclass(frozen=True)
class Limits:
    """When to leave a sample.

    Attributes:
        max_evaluations: of g, as the equation counts them.
        floor: a stalled sample within as many tolerances is at the floor of rounding.
        leave: whether to leave other stalled samples too, to a method that does better.
    """

    max_evaluations: int
    floor: float
    leave: bool


class _Running:
    """The samples still in the batch: best points, last points, and how they get on."""

    def __init__(self, equation: Equation, x: Tensor, rows: Tensor, memory: int) -> None:
        self._equation, self.rows = equation, rows
        self._noise = NOISE * torch.finfo(x.dtype).eps
        # More differences than dimensions and one repeat themselves.
        self._mixture = Mixture(x, min(memory, x.shape[1] + 1)) if memory and x.shape[1] else None
        self.best_x, self.best = x, equation.at(x, rows)
        equation.require_finite(self.best, rows)
        self._last_x, self._last_step = x, self.best.step
        # Nothing is known yet.
        self._accelerate = torch.zeros_like(rows, dtype=torch.bool)
        self._mark, self.since = self.best.residual, torch.zeros_like(rows)

    def advance(self) -> None:
        """One evaluation of every sample."""
        x = self.best_x + self.best.step
        plain = ~self._accelerate
        if self._mixture is not None and not bool(plain.all()):
            shift = torch.where(plain[:, None], 0, self._mixture.correction(self.best.step))
            plain = plain | ~shift.isfinite().all(1)
            x = torch.where(plain[:, None], x, x - shift)
        values = self._equation.at(x, self.rows)
        finite = values.residual.isfinite()
        if self._mixture is not None:
            self._mixture.add(x - self._last_x, values.step - self._last_step)
            self._last_x = torch.where(finite[:, None], x, self._last_x)
            self._last_step = torch.where(finite[:, None], values.step, self._last_step)
        better = values.residual <= self.best.residual + self._noise * values.size
        self.best_x = torch.where(better[:, None], x, self.best_x)
        self.best = values.where(better, self.best)
        # After a rejected point the plain step is taken, and after that, should it be rejected too, the mixture again.
        self._accelerate = better | plain
        halved = self.best.residual <= self._mark / 2
        self._mark = torch.where(halved, self.best.residual, self._mark)
        self.since = torch.where(halved, 0, self.since + 1)
        # From here the plain step leads nowhere, and the mixture of what is known led nowhere before.
        self.since[plain & ~finite] = PATIENCE

    def keep(self, samples: Tensor) -> None:
        """Leave all others."""
        self.rows, self.best_x, self.best = self.rows[samples], self.best_x[samples], self.best[samples]
        self._last_x, self._last_step = self._last_x[samples], self._last_step[samples]
        self._accelerate, self._mark = self._accelerate[samples], self._mark[samples]
        self.since = self.since[samples]
        if self._mixture is not None:
            self._mixture.keep(samples)


def accelerated(equation: Equation, x: Tensor, memory: int, limits: Limits) -> tuple[Tensor, Values, Tensor]:
    """Iterate until every sample is solved, stalls or is out of evaluations.

    Args:
        equation: what to solve.
        x: where to begin, all samples, (B, D).
        memory: window of Anderson's acceleration; 0 for the plain iteration.
        limits: when to leave a sample.

    Returns:
        The points of smallest residual, the values there, and which samples stalled above the floor of rounding.
    """
    running = _Running(equation, x, torch.arange(len(x), device=x.device), memory)
    found_x, found, stalled = x.clone(), running.best.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    while len(running.rows):
        best = running.best
        slow = running.since >= PATIENCE
        floored = slow & equation.at_the_floor(best, limits.floor)
        out = equation.evaluations[running.rows] >= limits.max_evaluations
        left = slow & ~floored & ~out if limits.leave else torch.zeros_like(slow)
        done = equation.solved(best) | floored | out | left
        if bool(done.any()):
            rows = running.rows[done]
            found_x[rows], stalled[rows] = running.best_x[done], (left & ~equation.solved(best))[done]
            found.set(rows, best[done])
            running.keep(~done)
        else:
            running.advance()
    return found_x, found, stalled
