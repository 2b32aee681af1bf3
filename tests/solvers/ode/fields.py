"""Vector fields for the tests of solvers, and the same discrete steps by ordinary autograd."""

import torch
from torch import Tensor, nn

from invertible.solvers.ode.algebraic import AlgebraicallyReversible
from invertible.solvers.ode.solver import Field, State


class Net(nn.Module):
    """A smooth nonlinear field of the state and the time, a few dimensions wide."""

    def __init__(self, features: int = 3, gain: float = 1.0) -> None:
        super().__init__()
        self.a, self.b, self.gain = nn.Linear(features, 8), nn.Linear(8, features), gain

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.gain * self.b(torch.tanh(self.a(x) + t))


def of(net: nn.Module) -> Field:
    """A net as a field."""
    return lambda t, state: (net(t, state[0]),)


def pendulum(t: Tensor, state: State) -> State:
    """One tensor with angle and velocity, driven."""
    angle, speed = state[0].unbind(1)
    return (torch.stack((speed, -angle.sin() + 0.3 * torch.cos(3 * t)), 1),)


def stored(solver: AlgebraicallyReversible, field: Field, state: State, start: float, end: float) -> State:
    """The solver's own steps, backpropagated through."""
    size = (end - start) / solver.steps
    pair = solver.begin(field, start, state)
    for index in range(solver.steps):
        for shear in solver.shears(index, start, size):
            pair = shear.run(field, pair, tuple(x.dtype for x in state))
    return pair.first
