"""Explicit Runge-Kutta methods as increments: what one step of given size adds to the state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.errors import ShapeError
from invertible.solvers.ode.solver import Field, State


@dataclass(frozen=True)
class OneStep:
    """An explicit Runge-Kutta method: k_i = v(t + c_i h, x + h sum_j a_ij k_j), Psi_h(t, x) = h sum_i b_i k_i.

    Attributes:
        order: p, the error of a solution is of order h^p.
        nodes: c, times of the stages as parts of a step.
        stages: rows of A, one for each stage after the first.
        weights: b.
    """

    order: int
    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]

    @property
    def evaluations(self) -> int:
        """Evaluations of the field a step."""
        return len(self.nodes)

    def lipschitz(self, slope: float, size: float) -> float:
        """A bound of Psi_h's Lipschitz constant in x, for a field whose constant is at most `slope`."""
        step, slopes = abs(size), list[float]()
        for row in ((), *self.stages):
            inner = sum(abs(weight) * bound for weight, bound in zip(row, slopes, strict=True) if weight)
            slopes.append(slope * (1 + step * inner) if slope else 0.0)
        return step * sum(abs(weight) * bound for weight, bound in zip(self.weights, slopes, strict=True) if weight)

    def increment(self, field: Field, time: float, state: State, size: float) -> State:
        """Psi_h(t, x), the tensors to be added to x at time t for a step of size h, which may be negative."""
        slopes: list[State] = []
        for node, row in zip(self.nodes, ((), *self.stages), strict=True):
            at = state
            for weight, slope in zip(row, slopes, strict=True):
                if weight:
                    at = tuple(torch.add(x, k, alpha=weight * size) for x, k in zip(at, slope, strict=True))
            slope = field(time_of(time + node * size, state), at)
            if [x.shape for x in slope] != [x.shape for x in state]:
                raise _shapes_differ(slope, state)
            slopes.append(slope)
        return _combined(slopes, [weight * size for weight in self.weights])


def time_of(time: float, state: State) -> Tensor:
    """A time as the field gets it: a scalar tensor of the state's dtype and device."""
    return torch.full((), time, dtype=state[0].dtype, device=state[0].device)


def _shapes_differ(slope: State, state: State) -> ShapeError:
    expected, found = ([tuple(x.shape) for x in each] for each in (state, slope))
    return ShapeError(
        f"solver: expected field(t, state) to return tensors of the state's shapes {expected}, got {found}. A field "
        "has as many components as its state; a size of 1 is not broadcast."
    )


def _combined(slopes: Sequence[State], weights: Sequence[float]) -> State:
    total: State | None = None
    for weight, slope in zip(weights, slopes, strict=True):
        if weight and total is None:
            total = tuple(k * weight for k in slope)
        elif weight and total is not None:
            total = tuple(torch.add(x, k, alpha=weight) for x, k in zip(total, slope, strict=True))
    assert total is not None
    return total


# Butcher's tableaux. Ralston (1962): least error bound of second order; bosh3: the third-order solution of Bogacki &
# Shampine (1989); dopri5: the fifth-order solution of Dormand & Prince (1980), whose seventh stage has no weight.
METHODS: dict[str, OneStep] = {
    "euler": OneStep(1, (0.0,), (), (1.0,)),
    "midpoint": OneStep(2, (0.0, 0.5), ((0.5,),), (0.0, 1.0)),
    "heun": OneStep(2, (0.0, 1.0), ((1.0,),), (0.5, 0.5)),
    "ralston": OneStep(2, (0.0, 2 / 3), ((2 / 3,),), (0.25, 0.75)),
    "bosh3": OneStep(3, (0.0, 0.5, 0.75), ((0.5,), (0.0, 0.75)), (2 / 9, 1 / 3, 4 / 9)),
    "rk4": OneStep(4, (0.0, 0.5, 0.5, 1.0), ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    "dopri5": OneStep(
        5,
        (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),
        (
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        ),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
}
