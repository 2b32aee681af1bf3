"""The reversible Heun method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from invertible.solvers.ode.algebraic import AlgebraicallyReversible
from invertible.solvers.ode.one_step import METHODS
from invertible.solvers.ode.shear import Kick, Pair, Shear
from invertible.solvers.ode.solver import Field, State


@dataclass(frozen=True)
class ReversibleHeun(AlgebraicallyReversible):
    """The reversible Heun method, of order 2, with exact gradients at constant memory and one evaluation a step.

    Two states are moved, y_0 = w_0 = x, with f_n = f(t_n, w_n):

        w' = 2 y - w + h f_n,  y' = y + (f_n + f_n') h/2,

    in the form of shears: y <- y + f_n h/2, w <- 2 y - w, y <- y + f_n' h/2, of which those of y between two steps are
    one. Walking back amplifies nothing. The forward pass is stable for fields that turn, up to |h v'| <= 1, and has a
    growing parasitic part where the field contracts.

    Args:
        steps: their number N.
        tolerance: see `AlgebraicallyReversible`.
        on_failure: `"recompute"` or `"raise"`; likewise.

    Cost: N + 1 evaluations of the field forward, as many with one vector-Jacobian product each for the gradient.

    Recommended for: what was trained with it elsewhere. Not for: fields that contract, which
    `ReversibleSolver` or a damped `AsynchronousLeapfrog` takes.

    Raises:
        ConfigError: if an argument is out of its range.

    Reference: Kidger, Foster, Li & Lyons (2021), "Efficient and accurate gradients for neural SDEs", algorithm 1.

    Example:
        >>> (x,), evaluations = ReversibleHeun(50).solve(lambda t, s: (s[0].sin(),), (torch.randn(8, 2),), 0.0, 1.0)
    """

    steps: int = 20
    tolerance: float | None = None
    on_failure: str = "recompute"

    def __post_init__(self) -> None:
        self._check_options()

    @property
    def evaluations(self) -> int:
        """One a step, and the first."""
        return self.steps + 1

    def begin(self, field: Field, time: float, state: State) -> Pair:
        """y_0 = w_0 = x."""
        return Pair(state, state)

    def shears(self, index: int, start: float, size: float) -> Sequence[Shear]:
        """The first half kick, if it is the first step; the reflection; a whole kick, or half of it at the end."""
        kicks = [self._kick(start, size / 2)] if index == 0 else []
        last = size / 2 if index == self.steps - 1 else size
        return [*kicks, Shear(1, keep=-1.0, mix=2.0), self._kick(start + (index + 1) * size, last)]

    def _kick(self, time: float, factor: float) -> Shear:
        return Shear(0, kick=Kick(METHODS["euler"], time, 1.0, factor))
