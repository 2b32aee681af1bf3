"""Gradients of an algebraically reversible solver: by walking back, at a memory that does not grow with the steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from invertible.errors import NotInvertibleError
from invertible.solvers.ode.direct_gradients import direct
from invertible.solvers.ode.passage import Passage
from invertible.solvers.ode.shear import Gradients, Pair
from invertible.solvers.ode.solver import State
from invertible.solvers.ode.witnesses import Witnesses
from invertible.solvers.second_derivatives import first_only

Result = TypeVar("Result")
FIRST_ONLY = (
    "reversible solver: knows first derivatives of its solution, and the derivative of one was taken. Use "
    "FixedStepSolver, through which any derivative goes, or leave create_graph out."
)


class RecomputedWarning(UserWarning):
    """Walking back did not arrive where the solution had begun; gradients are right, from a solution run again."""


@dataclass(frozen=True)
class Course:
    """A passage, and what is done where walking back fails.

    Attributes:
        owner: of messages.
        passage: the way.
        tolerance: largest relative error of a recovered state.
        recomputes: whether the solution is run again instead of raising.
    """

    owner: str
    passage: Passage
    tolerance: float
    recomputes: bool

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.passage.scheme.steps

    def settled(self, way: Callable[[State], Result], state: State) -> Result:
        """A way from the state, begun again with seeds if its field turns out to draw random numbers."""
        result, noise = way(state), self.passage.noise
        if noise.seed is None and noise.drawn:
            noise.take_seed()
            result = way(state)
        return result

    def run(self, state: State) -> Pair:
        """The last pair, and nothing else."""
        pair = self.passage.begin(state)
        for index in range(self.steps):
            pair = self.passage.step(index, pair)
        return pair

    def forward(self, state: State) -> tuple[Pair, Witnesses]:
        """The last pair, and what was left on the way."""
        pair, witnesses = self.passage.begin(state), Witnesses(self.steps, self.tolerance)
        witnesses.leave(0, pair)
        for index in range(self.steps):
            pair = self.passage.step(index, pair)
            witnesses.leave(index + 1, pair)
        return pair, witnesses

    def backward(
        self, state: State, last: Pair, above: State, parameters: Sequence[Tensor], witnesses: Witnesses
    ) -> list[Tensor | None]:
        """Gradients with respect to the state and the parameters."""
        gradients = _at_end(above, last, parameters)
        gradients, missed = self._walk(state, last, gradients, parameters, witnesses)
        if missed is not None:
            self._report(*missed)
            gradients = self._recomputed(state, _at_end(above, last, parameters), parameters)
        return self.passage.back_to_state(state, gradients, parameters)

    def _walk(
        self, state: State, pair: Pair, gradients: Gradients, parameters: Sequence[Tensor], witnesses: Witnesses
    ) -> tuple[Gradients, tuple[float, int] | None]:
        for index in reversed(range(self.steps)):
            pair, gradients = self.passage.back(index, pair, gradients, parameters)
            missed = witnesses.error(index, pair) if index else None
            if missed is not None:
                return gradients, missed
        with torch.no_grad():
            return gradients, witnesses.distance(pair, self.passage.begin(state))

    def _recomputed(self, state: State, gradients: Gradients, parameters: Sequence[Tensor]) -> Gradients:
        """The same gradients from states that are computed forward: sqrt(N) of them are held, twice."""
        spacing = max(1, math.isqrt(self.steps))
        with torch.no_grad():
            pair, held = self.passage.begin(state), []
            for index in range(self.steps):
                if index % spacing == 0:
                    held.append(pair)
                pair = self.passage.step(index, pair)
        for first in reversed(range(0, self.steps, spacing)):
            within, pair = [], held.pop()
            with torch.no_grad():
                for index in range(first, min(first + spacing, self.steps)):
                    within.append(self.passage.within(index, pair))
                    pair = within[-1][-1]
            while within:
                known = within.pop()
                _, gradients = self.passage.back(first + len(within), known[-1], gradients, parameters, known)
        return gradients

    def _report(self, error: float, sample: int) -> None:
        message = (
            f"{self.owner}: on the way back sample {sample} was recovered with a relative error of {error:.1e}, more "
            f"than {self.tolerance:.1e}, so that gradients would be wrong"
        )
        remedy = "Take a coupling or damping nearer to 1, or more steps."
        if not self.recomputes:
            raise NotInvertibleError(
                f"{message}. {remedy} on_failure='recompute' computes them from a solution run again.",
                block=self.owner,
                sample=sample,
                error=error,
            )
        warnings.warn(
            f"{message}; they were computed from a solution run again, at 1.5 times the cost and a memory that grows "
            f"with the root of the number of steps. {remedy}",
            RecomputedWarning,
            stacklevel=2,
        )


def _at_end(above: State, last: Pair, parameters: Sequence[Tensor]) -> Gradients:
    first = tuple(g.to(x.dtype) for g, x in zip(above, last.first, strict=True))
    return Gradients(Pair(first, tuple(torch.zeros_like(x) for x in last.second)), [None] * len(parameters))


def solve_with_gradient(course: Course, state: State, parameters: Sequence[Tensor]) -> State:
    """The solution, differentiable with respect to state and parameters by walking back."""
    return _WalkBack.apply(course, len(state), *state, *parameters)  # pyright: ignore[reportReturnType]


class _WalkBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, course: Course, count: int, *tensors: Tensor) -> State:  # noqa: ANN401
        state = tensors[:count]
        with course.passage.autocast.again():
            last, ctx.witnesses = course.settled(course.forward, state)
        ctx.course, ctx.count = course, count
        # Beside what the caller holds, the last pair: all that is kept.
        ctx.save_for_backward(*tensors, *last.first, *last.second)
        return course.passage.end(last)

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        count, saved = ctx.count, ctx.saved_tensors
        state, parameters = saved[:count], saved[count : len(saved) - 2 * count]
        last = Pair(saved[-2 * count : -count], saved[-count:])
        with torch.no_grad(), ctx.course.passage.autocast.again():
            found = ctx.course.backward(state, last, above, parameters, ctx.witnesses)
            found[count:] = direct(parameters, found[count:])
        if torch.is_grad_enabled():
            # A graph of these was asked for, which would have to be that of the whole way.
            found = [None if x is None else first_only(x, FIRST_ONLY) for x in found]
        return None, None, *found
