"""What algebraically reversible solvers have in common: how they run, and how gradients come about."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from invertible.errors import ConfigError, ShapeError, choose, require_positive
from invertible.solvers.ode.passage import Declared, Passage
from invertible.solvers.ode.reversible_gradient import Course, solve_with_gradient
from invertible.solvers.ode.shear import Pair, Shear
from invertible.solvers.ode.solver import Field, ODESolver, Solution, State
from invertible.solvers.ode.surroundings import Autocast, Noise

ON_FAILURE = {"recompute": True, "raise": False}


class AlgebraicallyReversible(ODESolver):
    """A solver with fixed steps each of which has an inverse in closed form. Use one of its subclasses.

    The gradient is that of the discrete solution, as backpropagation through all steps gives it, at a memory that does
    not depend on their number: the backward pass recovers each state from the next one, and evaluates the field once
    for both the recovery and its vector-Jacobian product. The pair of states is carried in float64 whatever the
    state's dtype, so that rounding, which walking back amplifies, stays below what float32 can tell.

    A field may draw random numbers: each evaluation then has a seed of its own, which the way back uses again. Modules
    that count their calls (batch normalisation in training mode) count those of the backward pass too. Under
    `torch.func` transforms and forward-mode differentiation the same steps are run with ordinary autograd.

    Attributes:
        steps: number of steps N.
        tolerance: largest error of a recovered state of a sample, relative to its norm; `None`: eps^(2/3) of the
            state's dtype, 4e-11 for float64 and 2e-5 for float32. The state at the beginning, which the caller holds
            anyway, is compared in full, and those at eight places on the way by a product with random signs.
        on_failure: where that is missed, `"recompute"` computes the same gradients from a solution that is run again,
            sqrt(N) states being held, with a `RecomputedWarning`; `"raise"` raises `NotInvertibleError`.
    """

    steps: int
    tolerance: float | None
    on_failure: str

    @property
    def evaluations(self) -> int:
        """Evaluations of the field in a solution; its gradient takes as many, with a vector-Jacobian product each."""
        raise TypeError(f"{type(self).__name__}: define evaluations.")

    def begin(self, field: Field, time: float, state: State) -> Pair:
        """The pair at the beginning, differentiable."""
        raise TypeError(f"{type(self).__name__}: define begin(self, field, time, state).")

    def shears(self, index: int, start: float, size: float) -> Sequence[Shear]:
        """The shears of step `index`, of size h from time start + index h; eight at most."""
        raise TypeError(f"{type(self).__name__}: define shears(self, index, start, size).")

    def solve(
        self, field: Field, state: State, start: float, end: float, parameters: Sequence[Tensor] = ()
    ) -> Solution:
        """The state at `end`; see `ODESolver.solve`.

        Raises:
            ShapeError: if the field returns other shapes.
            ConfigError: in the backward pass, if the field depends on a tensor with gradients that is not given.
            NotInvertibleError: in the backward pass, with `on_failure="raise"`.
            SecondDerivativeError: if a gradient is differentiated.
        """
        owner = type(self).__name__
        if not state or not all(x.is_floating_point() for x in state):
            raise ShapeError(f"{owner}: expected a state of floating-point tensors, got {[x.dtype for x in state]}.")
        if start == end:
            return Solution(state, 0)
        given = list({id(x): x for x in parameters if x.requires_grad}.values())
        watched = Declared(owner, field, given)
        size, dtypes = (end - start) / self.steps, tuple(x.dtype for x in state)
        course = Course(
            owner,
            Passage(self, watched, start, size, dtypes, Autocast(state), Noise(state)),
            tolerance_for(state) if self.tolerance is None else self.tolerance,
            ON_FAILURE[self.on_failure],
        )
        transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
        if torch.is_grad_enabled() and not transformed and any(x.requires_grad for x in (*state, *given)):
            return Solution(solve_with_gradient(course, state, given), self.evaluations)
        watched.seen = True
        last = course.run(state) if transformed else course.settled(course.run, state)
        return Solution(course.passage.end(last), self.evaluations)

    def _check_options(self) -> None:
        owner = type(self).__name__
        require_positive(owner, steps=self.steps)
        choose(owner, "on_failure", self.on_failure, ON_FAILURE)
        if self.tolerance is not None and not self.tolerance > 0:
            raise ConfigError(f"{owner}: expected a positive tolerance, got {self.tolerance}. Leave it out.")


def tolerance_for(state: State) -> float:
    """Two thirds of the digits of the coarsest dtype."""
    return max(torch.finfo(x.dtype).eps for x in state) ** (2 / 3)
