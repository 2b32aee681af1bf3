"""What solves an ordinary differential equation: one interface over all solvers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

State = tuple[Tensor, ...]
# x' = field(t, x): t a scalar tensor, or of shape (B,) from a solver that steps each sample by itself; x a tuple of
# tensors of shape (B, ...).
Field = Callable[[Tensor, State], State]


class Solution(NamedTuple):
    """What a solver returns.

    Attributes:
        state: the solution at the end of the span of time, differentiable with respect to the initial state and the
            parameters.
        evaluations: how often the field was evaluated on the way there.
    """

    state: State
    evaluations: int


@dataclass(frozen=True)
class ODESolver:
    """How x' = v(t, x) is solved over a span of time, and how gradients of the solution come about.

    A value that is passed in: `ContinuousBlock(net, solver=AdaptiveSolver("dopri5", rtol=1e-6))`.
    """

    def solve(
        self, field: Field, state: State, start: float, end: float, parameters: Sequence[Tensor] = ()
    ) -> Solution:
        """The state at time `end` of the solution that is `state` at time `start`; `end` may lie before `start`.

        Args:
            field: v, taking the time and the state, returning the state's derivatives.
            state: tensors of shape (B, ...).
            start: t at the beginning.
            end: t at the end.
            parameters: all tensors beside `state` on which the field depends and to which gradients shall flow: those
                of networks, and a condition.

        Raises:
            ConvergenceError: if the solver cannot go on; the message tells where, and what to do.
        """
        raise TypeError(f"{type(self).__name__}: define solve(self, field, state, start, end, parameters=()).")
