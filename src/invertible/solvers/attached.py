"""Values without a graph that are given derivatives, and derivatives that have none themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from invertible.solvers.linearised import Systems
from invertible.solvers.second_derivatives import SecondDerivativeError, first_only

FIRST_ONLY = (
    "implicit_solution: knows first derivatives of the solution of y = x + g(x), and the derivative of one was taken. "
    "Differentiate the forward direction twice instead, or leave create_graph out."
)


def attach(residual: Tensor, x: Tensor, systems: Systems, *, moving: bool) -> Tensor:
    """The values of x, with the derivatives of -(I + J)^-1 residual.

    Args:
        residual: x + g(x) - y, with a graph.
        x: the solution.
        systems: solves the linear systems of the backward pass.
        moving: whether the residual has a tangent too, whose derivative the backward pass would need.
    """
    return _Attach.apply(residual, x, systems, moving)  # pyright: ignore[reportReturnType]


def depends_on_others(value: Tensor, point: Tensor) -> bool:
    """Whether a leaf other than `point` is in the graph of a value."""
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and leaf is not point:
            return True
        waiting += [following for following, _ in node.next_functions]
    return False


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, systems: Systems, moving: bool) -> Tensor:  # noqa: ANN401, FBT001
        ctx.systems, ctx.moving = systems, moving
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        level = forward_ad._current_level >= 0
        if level and (ctx.moving or forward_ad.unpack_dual(grads[0]).tangent is not None):
            raise SecondDerivativeError(FIRST_ONLY)
        found = -ctx.systems.solve_transposed(grads[0])
        return first_only(found, FIRST_ONLY) if torch.is_grad_enabled() else found, None, None, None
