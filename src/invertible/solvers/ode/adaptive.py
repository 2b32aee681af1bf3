"""Adaptive solvers of ordinary differential equations, with a step size for every sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.errors import ConfigError, choose, require_positive
from invertible.solvers.ode.adaptive_gradients import Adjoint, Replay
from invertible.solvers.ode.runge_kutta_pairs import PAIRS, Controlled, Problem, integrate
from invertible.solvers.ode.solver import Field, ODESolver, Solution, State

GRADIENTS = ("replay", "adjoint", "direct")


@dataclass(frozen=True)
class AdaptiveSolver(ODESolver):
    """An embedded pair of Runge-Kutta methods that chooses its steps by its own estimate of the error (torchode).

    A step from x to x' is accepted where the root mean square over a sample's numbers of
    e_i / (atol + rtol max(|x_i|, |x'_i|)) is below 1, e the difference of the two methods of the pair. Every sample
    has its own step size, so that its solution does not depend on the others of the batch; the field then gets times
    of shape (B,). Solvers with one step size a batch (torchdiffeq) return another density for the same sample in
    another batch: `shared_steps=True` does that here.

    x is the first tensor of the state. Further ones are taken for integrals along its path (a log-determinant,
    energies) and do not choose steps, so that x is the same whether they are computed or not, and whatever random
    probe they use; `control="all"` has every tensor meet the tolerance.

    The solution is a function of the initial state that jumps by about the tolerance where the number of steps
    changes. It is no diffeomorphism, and solving backward inverts it to about the tolerance only.

    Args:
        method: `"dopri5"` (Dormand & Prince 1980) or `"tsit5"` (Tsitouras 2011), both of order 5, or `"heun"` (order
            2).
        rtol: tolerance of one step relative to the size of each number; raised to 8 eps of the state's dtype where it
            is below.
        atol: absolute tolerance of one step; likewise.
        gradient: how gradients come about. `"replay"`: the steps taken are remembered, each one's graph is built again
            in the backward pass: gradients of the computed solution with the steps held fixed, memory of one state a
            step and one step's graph (Zhuang et al. 2020). `"adjoint"`: the adjoint equation is solved backward, with
            the state (Chen et al. 2018, algorithm 1): memory of one state whatever the number of steps, gradients
            with an error of about the tolerance, twice the evaluations. `"direct"`: backpropagation through the solver
            (`"replay"`'s gradients, all graphs in memory, and the one that can be differentiated twice).
        max_steps: attempted steps at most.
        control: which tensors of the state choose the steps: `"first"` or `"all"`.
        shared_steps: one step size for the batch, that of its most difficult sample; the field gets a scalar time.

    Under `memory="reversible"` a block solved at a loose tolerance does not return its input; the strategy notices,
    warns and keeps that input. `"checkpoint"`, `"recursive"`, or fixed steps suit better.

    Recommended for: evaluation at a tolerance, fields whose difficulty changes in training. Not for: laws that hold to
    rounding, `torch.func` transforms, fields with kinks (ReLU), at which the steps shrink.

    Raises:
        ConfigError: if an argument is out of its range.
        MissingDependencyError: by `solve`, if torchode is not installed.

    Example:
        >>> solver = AdaptiveSolver("dopri5", rtol=1e-6, atol=1e-6)
        >>> (x,), evaluations = solver.solve(lambda t, state: (-state[0],), (torch.ones(4, 2),), 0.0, 1.0)
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    gradient: str = "replay"
    max_steps: int = 1000
    control: str = "first"
    shared_steps: bool = False

    def __post_init__(self) -> None:
        choose("AdaptiveSolver", "method", self.method, PAIRS)
        choose("AdaptiveSolver", "gradient", self.gradient, dict.fromkeys(GRADIENTS))
        choose("AdaptiveSolver", "control", self.control, dict.fromkeys(("first", "all")))
        require_positive("AdaptiveSolver", max_steps=self.max_steps)
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"AdaptiveSolver: expected {name} >= 0, got {value}.")
        if not self.rtol + self.atol > 0:
            raise ConfigError("AdaptiveSolver: expected rtol or atol above 0, got 0 for both; no step would pass.")

    def solve(
        self, field: Field, state: State, start: float, end: float, parameters: Sequence[Tensor] = ()
    ) -> Solution:
        """The state at `end`; see `ODESolver.solve`.

        Raises:
            ConvergenceError: if a sample's step size underflows, the field is not finite or `max_steps` are taken;
                the message names the sample, the time, the step size, and what to do.
        """
        if not len(state[0]) or start == end:
            return Solution(state, 0)
        shapes, everything = tuple(each.shape for each in state), self.control == "all"
        problem = Problem(field, shapes, start, end, shared=self.shared_steps, control_all=everything)
        y = problem.flatten(state)
        tensors = [each for each in parameters if each.requires_grad]
        needs_grad = torch.is_grad_enabled() and (y.requires_grad or bool(tensors))
        least = 8 * torch.finfo(y.dtype).eps
        control = Controlled(self.method, max(self.rtol, least), max(self.atol, least), self.max_steps)
        if self.gradient == "direct" or not needs_grad:
            found = integrate(problem, y, control)
            return Solution(problem.unflatten(found.y), found.evaluations)
        counted: list[int] = []
        kind = Replay if self.gradient == "replay" else Adjoint
        y = kind.apply(problem, control, counted, y, *tensors)
        return Solution(problem.unflatten(y), counted[0])
