"""One-step methods with steps of one size, backpropagated through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from invertible.errors import choose, require_positive
from invertible.solvers.ode.one_step import METHODS
from invertible.solvers.ode.solver import Field, ODESolver, Solution, State


@dataclass(frozen=True)
class FixedStepSolver(ODESolver):
    """An explicit Runge-Kutta method with steps of size h = (end - start)/steps: x' = x + Psi_h(t, x).

    The solution is a smooth function of the initial state, rows are independent, the cost is known beforehand, and
    derivatives of any order and `torch.func` transforms go through. Its error, of order h^p, is nobody's to see:
    compare with twice the steps. Memory grows with the number of steps; `ReversibleSolver`'s does not.

    Args:
        method: a name of `METHODS`: `"rk4"` (p = 4, four evaluations a step), `"dopri5"` (5, six), `"bosh3"` (3,
            three), `"midpoint"`, `"heun"`, `"ralston"` (2, two), `"euler"` (1, one).
        steps: their number.

    Recommended for: training, where paths are kept straight by energies, and all that must be a diffeomorphism. Not
    for: fields whose difficulty is not known; long integrations whose graph fills the memory.

    Raises:
        ConfigError: if the method is unknown or the number of steps not positive.

    Example:
        >>> (x,), evaluations = FixedStepSolver("rk4", steps=8).solve(lambda t, s: (-s[0],), (torch.ones(4, 2),), 0, 1)
    """

    method: str = "rk4"
    steps: int = 10

    def __post_init__(self) -> None:
        choose("FixedStepSolver", "method", self.method, METHODS)
        require_positive("FixedStepSolver", steps=self.steps)

    def solve(
        self, field: Field, state: State, start: float, end: float, parameters: Sequence[Tensor] = ()
    ) -> Solution:
        """The state at `end`; see `ODESolver.solve`."""
        method, size = METHODS[self.method], (end - start) / self.steps
        for index in range(self.steps):
            moved = method.increment(field, start + index * size, state, size)
            state = tuple(x + change for x, change in zip(state, moved, strict=True))
        return Solution(state, self.steps * method.evaluations)
