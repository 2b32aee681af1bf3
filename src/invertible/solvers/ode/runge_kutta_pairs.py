"""Embedded Runge-Kutta pairs with a step size for every sample: the one place that calls torchode."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor

from invertible.errors import ConvergenceError, require
from invertible.solvers.ode.solver import Field, State

# Names in torchode.
PAIRS = {"dopri5": "Dopri5", "tsit5": "Tsit5", "heun": "Heun"}
# The first step tried, as a part of the span. Flows take 5 to 20 steps; a rule that looks at the field's size begins
# with a millionth where the field is zero, as that of a flow is which starts as the identity.
FIRST_STEP = 0.1
# Below this part of the span a step is nothing but rounding.
SMALLEST_STEP = 1e-12
REMEDY = (
    "The field is stiff, unbounded or not smooth there. Train with kinetic and Jacobian energies, loosen rtol and "
    "atol, or take a solver with fixed steps."
)


@dataclass(frozen=True)
class Controlled:
    """A pair and its tolerances.

    Attributes:
        method: a name of `PAIRS`.
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: attempts at most.
    """

    method: str
    rtol: float
    atol: float
    max_steps: int


@dataclass(frozen=True)
class Problem:
    """A field on tuples of tensors as one on rows of numbers.

    Attributes:
        field: of the state.
        shapes: of the state's tensors.
        start: time of the initial state.
        end: time of the solution.
        shared: all samples are one row, and the field gets a scalar time.
        control_all: all tensors of the state choose the steps, not the first alone.
    """

    field: Field
    shapes: tuple[torch.Size, ...]
    start: float
    end: float
    shared: bool = False
    control_all: bool = True

    @property
    def widths(self) -> list[int]:
        """Numbers a sample of every tensor."""
        return [math.prod(shape[1:]) for shape in self.shapes]

    def flatten(self, state: Sequence[Tensor]) -> Tensor:
        """(rows, numbers): a row a sample, or one row."""
        y = torch.cat([each.reshape(len(each), -1) for each in state], 1)
        return y.reshape(1, -1) if self.shared else y

    def unflatten(self, y: Tensor) -> State:
        """The state of rows."""
        samples = self.shapes[0][0]
        parts = y.reshape(samples, -1).split(self.widths, 1)
        return tuple(part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True))

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The field of rows, at times of shape (rows,)."""
        return self.flatten(self.field(t[0] if self.shared else t, self.unflatten(y)))

    @torch.no_grad()
    def norm(self, y: Tensor) -> Tensor:
        """Of every row: the largest root mean square among tensors that choose steps, and among samples in one row."""
        parts = y.reshape(self.shapes[0][0], -1).split(self.widths, 1)
        parts = parts if self.control_all else parts[:1]
        sizes = [part.square().mean(1) for part in parts if part.shape[1]]
        largest = torch.stack(sizes).amax(0).sqrt()
        return largest.amax().expand(1) if self.shared else largest


@dataclass
class Attempts:
    """The steps that were tried, and what came of them.

    Attributes:
        tried: time (rows,), step size (rows,) and state (rows, numbers) of every attempt, if they are kept.
        count: number of attempts.
        evaluations: of the field.
        tableau: coefficients of the method.
        y: the solution, once it is known.
    """

    tried: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    count: int = 0
    evaluations: int = 0
    tableau: Any = None
    y: Tensor = field(default_factory=lambda: torch.empty(0))

    def accepted(self, end: float) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The attempts by which a row advanced; step sizes of rows that did not are 0."""
        times = [t for t, _, _ in self.tried]
        following = [*times[1:], torch.full_like(times[0], end)]
        steps = [
            (t, torch.where(after != t, dt, 0.0), y) for (t, dt, y), after in zip(self.tried, following, strict=True)
        ]
        return [each for each in steps if bool((each[1] != 0).any())]


def integrate(problem: Problem, y: Tensor, control: Controlled, *, keep: bool = False) -> Attempts:
    """Solve from rows y, with a graph if grad is on; step sizes are constants in it.

    Args:
        problem: what to solve.
        y: initial rows.
        control: how accurately.
        keep: remember all attempts.

    Raises:
        ConvergenceError: see `AdaptiveSolver.solve`.
    """
    torchode = require("torchode", "ode")
    attempts = Attempts()

    def evaluate(t: Tensor, rows: Tensor) -> Tensor:
        attempts.evaluations += 1
        return problem(t.to(rows.dtype), rows)

    term = torchode.ODETerm(evaluate, with_stats=False)
    method = getattr(torchode, PAIRS[control.method])(term)
    method.step = _watched(method.step, problem, control, attempts, keep=keep)
    # The controller's tolerances are buffers of the default dtype otherwise.
    controller = torchode.IntegralController(control.atol, control.rtol, term=term, norm=problem.norm).to(y)
    driver = torchode.AutoDiffAdjoint(method, controller, backprop_through_step_size_control=False)
    begin, end = (torch.full((len(y),), t, dtype=torch.float64, device=y.device) for t in (problem.start, problem.end))
    first = (end - begin) * FIRST_STEP
    driver.solve(torchode.InitialValueProblem(y, begin, end), term, dt0=first)
    return attempts


def _watched(
    step: Callable[..., Any], problem: Problem, control: Controlled, attempts: Attempts, *, keep: bool
) -> Callable[..., Any]:
    """A step that notes what it tries, and refuses to go on where nothing will come of it."""
    smallest = SMALLEST_STEP * abs(problem.end - problem.start)
    finite: Tensor | None = None

    def watched(term: Any, running: Tensor, y: Tensor, t: Tensor, dt: Tensor, state: Any, **rest: Any) -> Any:  # noqa: ANN401
        nonlocal finite
        tiny = running & ~(dt.abs() > smallest) & ((problem.end - t).abs() > smallest)
        if bool(tiny.any()):
            row = int(tiny.nonzero()[0])
            _stop(problem, attempts.count, row, (t, dt), is_finite=finite is None or bool(finite[row]))
        if attempts.count >= control.max_steps:
            _stop(problem, attempts.count, int(running.nonzero()[0]), (t, dt))
        result, interpolation, after, status = step(term, running, y, t, dt, state, **rest)
        attempts.count, attempts.tableau = attempts.count + 1, after.tableau
        if keep:
            attempts.tried.append((t, dt, y.detach()))
        finite = now = result.y.isfinite().all(1) & result.error_estimate.isfinite().all(1)
        if not bool(now.all()):
            # A step out of the field's domain is too long, no more: it is refused, and a shorter one tried.
            good = now[:, None]
            error = torch.where(good, result.error_estimate, torch.finfo(y.dtype).max ** 0.25)
            result = type(result)(torch.where(good, result.y, y), error)
        attempts.y = torch.where((dt != 0)[:, None], result.y, y)
        return result, interpolation, after, status

    return watched


def _stop(
    problem: Problem, attempts: int, row: int, step: tuple[Tensor, Tensor], *, is_finite: bool = True
) -> NoReturn:
    """Say which row cannot go on, where and why."""
    t, dt = float(step[0][row]), abs(float(step[1][row]))
    who = "the batch" if problem.shared else f"sample {row}"
    if not is_finite:
        reason = f"the field is not finite near t = {t:.6g} for {who}, down to steps of {dt:.1e}"
    elif dt > SMALLEST_STEP * abs(problem.end - problem.start):
        reason = f"max_steps = {attempts} attempts are used up at t = {t:.6g} for {who}, the step being {dt:.1e}"
    else:
        reason = f"the step size of {who} fell to {dt:.1e} at t = {t:.6g}"
    raise ConvergenceError(
        f"AdaptiveSolver: {reason}, on the way from t = {problem.start:g} to {problem.end:g}. {REMEDY}",
        iterations=attempts,
    )


def replayed(problem: Problem, tableau: Any, t: Tensor, dt: Tensor, y: Tensor) -> Tensor:  # noqa: ANN401
    """One step of the pair with given step sizes (rows,), of the solution alone: the error costs a stage more."""
    h = dt.to(y.dtype)[:, None]
    stages = [problem(t.to(y.dtype), y)]
    last = tableau.n_stages - (1 if tableau.ssal else 0)
    for index in range(1, last):
        inner = sum((float(a) * k for a, k in zip(tableau.a[index, :index], stages, strict=True)), 0 * y)
        stages.append(problem((t + tableau.c[index] * dt).to(y.dtype), y + h * inner))
    total = sum((float(b) * k for b, k in zip(tableau.b[:last], stages, strict=True)), 0 * y)
    return y + h * total
