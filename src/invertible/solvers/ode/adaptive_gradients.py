"""Gradients of adaptively solved equations without a stored graph: replayed steps, and the adjoint equation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invertible.solvers.ode.runge_kutta_pairs import Controlled, Problem, integrate, replayed
from invertible.solvers.second_derivatives import first_only

FIRST_ONLY = (
    "AdaptiveSolver: knows first derivatives with gradient='replay' and 'adjoint', and one was differentiated again. "
    "Use gradient='direct', or leave create_graph out."
)


class Replay(torch.autograd.Function):
    """The steps taken are remembered; going backward, each one's graph is built, used and dropped."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        problem: Problem,
        control: Controlled,
        counted: list[int],
        y: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        """Solve, and keep the accepted steps."""
        found = integrate(problem, y, control, keep=True)
        counted.append(found.evaluations)
        ctx.problem, ctx.tableau = problem, found.tableau
        # As saved tensors, so that memory strategies have them in hand.
        steps = [torch.stack(each) for each in zip(*found.accepted(problem.end), strict=True)]
        ctx.save_for_backward(*steps, y, *parameters)
        return found.y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        """Backpropagate step by step."""
        times, sizes, states, start, *parameters = ctx.saved_tensors
        gradient = gradients[0].detach()
        totals: list[Tensor | None] = [None] * len(parameters)
        for t, dt, y in zip(times.flip(0), sizes.flip(0), states.flip(0), strict=True):
            with torch.enable_grad():
                y = y.detach().requires_grad_()
                after = replayed(ctx.problem, ctx.tableau, t, dt, y)
            gradient, *parts = _products(after, (y, *parameters), gradient)
            totals = [_added(total, part) for total, part in zip(totals, parts, strict=True)]
        return None, None, None, *_first_only((gradient, *totals), (gradients[0], start, *parameters))


class Adjoint(torch.autograd.Function):
    """Nothing but the solution is remembered; state, adjoint and gradients are integrated backward together."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        problem: Problem,
        control: Controlled,
        counted: list[int],
        y: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        """Solve."""
        found = integrate(problem, y, control)
        counted.append(found.evaluations)
        ctx.problem, ctx.control, ctx.y = problem, control, found.y.detach()
        ctx.save_for_backward(y, *parameters)
        return found.y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        """Solve the adjoint equation from the end to the beginning."""
        (_, *parameters), end = ctx.saved_tensors, gradients[0].detach()
        # The equation is linear in the adjoint: scaled to 1, an absolute tolerance means the same for every loss.
        scale = end.abs().amax()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        back = AdjointProblem(ctx.problem, tuple(parameters))
        packed = back.pack(ctx.y, end / scale, [torch.zeros_like(each) for each in parameters])
        with torch.no_grad():
            _, gradient, totals = back.unpack(integrate(back, packed, ctx.control).y)
        return (
            None,
            None,
            None,
            *_first_only((scale * gradient, *(scale * total for total in totals)), (gradients[0], *ctx.saved_tensors)),
        )


@dataclass(frozen=True, init=False)
class AdjointProblem(Problem):
    """y' = f, a' = -a df/dy, g' = -a df/dtheta in one row, since g is the batch's (Chen et al. 2018, algorithm 1).

    Steps are chosen by the errors of y and a: g is an integral that they determine (Kidger et al. 2021).

    Attributes:
        problem: the problem solved forward.
        parameters: theta.
    """

    problem: Problem
    parameters: tuple[Tensor, ...]

    def __init__(self, problem: Problem, parameters: tuple[Tensor, ...]) -> None:
        super().__init__(problem.field, problem.shapes, problem.end, problem.start, shared=True, control_all=True)
        object.__setattr__(self, "problem", problem)
        object.__setattr__(self, "parameters", parameters)

    def pack(self, y: Tensor, adjoint: Tensor, gradients: Sequence[Tensor]) -> Tensor:
        """All in one row."""
        return torch.cat([each.reshape(-1).to(y.dtype) for each in (y, adjoint, *gradients)])[None]

    def unpack(self, row: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """y, a and g."""
        numbers = self.shapes[0][0] * sum(self.widths)
        sizes = [numbers, numbers, *(each.numel() for each in self.parameters)]
        y, adjoint, *gradients = row[0].split(sizes)
        rows = 1 if self.problem.shared else self.shapes[0][0]
        shaped = [g.reshape(p.shape).to(p.dtype) for g, p in zip(gradients, self.parameters, strict=True)]
        return y.reshape(rows, -1), adjoint.reshape(rows, -1), shaped

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """The derivatives of the row."""
        state, adjoint, _ = self.unpack(y)
        with torch.enable_grad():
            state = state.detach().requires_grad_()
            value = self.problem(t.expand(len(state)), state)
        products = _products(value, (state, *self.parameters), -adjoint)
        zeros = (torch.zeros_like(p) for p in self.parameters)
        filled = [z if g is None else g for g, z in zip(products[1:], zeros, strict=True)]
        return self.pack(value.detach(), products[0] if products[0] is not None else 0 * state, filled)

    @torch.no_grad()
    def norm(self, y: Tensor) -> Tensor:
        """The largest among y's and a's samples and tensors."""
        state, adjoint, _ = self.unpack(y)
        return torch.maximum(self.problem.norm(state).amax(), self.problem.norm(adjoint).amax()).expand(1)


def _first_only(gradients: Sequence[Tensor | None], sources: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients that tell whoever differentiates them by their sources, where a graph of them is asked for."""
    if not torch.is_grad_enabled():
        return list(gradients)
    return [None if each is None else first_only(each, FIRST_ONLY, *sources) for each in gradients]


def _products(output: Tensor, inputs: Sequence[Tensor], cotangent: Tensor) -> list[Any]:
    if not output.requires_grad:
        return [None] * len(inputs)
    return list(torch.autograd.grad(output, inputs, cotangent, allow_unused=True))


def _added(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    if total is None or part is None:
        return part if total is None else total
    return total + part
