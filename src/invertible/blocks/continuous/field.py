"""The equation that a continuous block solves: the state, its log-determinant and its energies together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertible.blocks.continuous.traces import divergence
from invertible.errors import ShapeError
from invertible.shapes import at_least_float32, full_precision
from invertible.solvers.ode.solver import ODESolver, State


@dataclass(frozen=True)
class Flowline:
    """x' = v(t, x | c) over a span of time by a solver, without autocast and in float32 at least.

    Attributes:
        net: v.
        solver: how it is solved.
        condition: c.
        parameters: tensors with gradients on which v depends, c among them.
    """

    net: nn.Module
    solver: ODESolver
    condition: Tensor | None
    parameters: Sequence[Tensor]

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """v, of x's dtype, computed in the net's."""
        dtype = next((p.dtype for p in self.parameters if p.is_floating_point()), x.dtype)
        condition = None if self.condition is None else self.condition.to(dtype)
        # Without a condition a net need not take one.
        given = () if condition is None else (condition,)
        v = self.net(t.to(dtype), x.to(dtype), *given)
        if v.shape != x.shape:
            raise ShapeError(
                f"ContinuousBlock: expected net(t, x) to return x's shape {tuple(x.shape)}, got {tuple(v.shape)}. A "
                "vector field has as many components as its state."
            )
        return v.to(x.dtype)

    def positions(self, x: Tensor, start: float, end: float) -> tuple[Tensor, int]:
        """x at the end, and the number of evaluations of v."""
        with full_precision(x):
            state = (at_least_float32(x),)
            solution = self.solver.solve(self._position, state, start, end, self.parameters)
        return solution.state[0].to(x.dtype), solution.evaluations

    def _position(self, t: Tensor, state: State) -> State:
        return (self.velocity(t, state[0]),)

    def whole(
        self, x: Tensor, start: float, end: float, probes: Tensor | None, *, energies: bool = False
    ) -> tuple[State, int]:
        """x at the end, the integral of tr dv/dx, and with `energies` those of |v|^2 and |dv/dx|_F^2, (B,) each."""
        begin = at_least_float32(x)
        zero = begin.new_zeros(len(x))

        def field(t: Tensor, state: State) -> State:
            found = divergence(lambda at: self.velocity(t, at), state[0], probes)
            if not energies:
                return found.value, found.trace
            return found.value, found.trace, found.value.square().flatten(1).sum(1), found.frobenius

        with full_precision(x):
            state = (begin, zero, *((zero, zero) if energies else ()))
            solution = self.solver.solve(field, state, start, end, self.parameters)
        return (solution.state[0].to(x.dtype), *solution.state[1:]), solution.evaluations


def tensors_of(net: nn.Module, condition: Tensor | None) -> tuple[Tensor, ...]:
    """All to which gradients may flow through a field."""
    return (*net.parameters(), *(() if condition is None else (condition,)))


def needs_graph(x: Tensor, parameters: Sequence[Tensor]) -> bool:
    """Whether a result is to be differentiated."""
    return torch.is_grad_enabled() and (x.requires_grad or any(each.requires_grad for each in parameters))
