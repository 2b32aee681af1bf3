"""Small bijections with one property each, for tests of what judges them."""

import torch

from invertible.bijection import Bijection
from invertible.errors import ConvergenceError, DomainError


class Shift(Bijection):
    """y = x + 1/2: exact on numbers of few bits."""

    def forward(self, x, condition=None):
        return x + 0.5, x.new_zeros(len(x))

    def inverse(self, y, condition=None):
        return y - 0.5, y.new_zeros(len(y))


class Squash(Bijection):
    """y = (a, b e^(-k |a|) + a): digits of b are lost under those of a, the more, the larger |a| is."""

    def __init__(self, k=40.0):
        super().__init__()
        self.k = torch.nn.Parameter(torch.tensor(k))

    def forward(self, x, condition=None):
        a, b = x.chunk(2, 1)
        s = -self.k * a.abs()
        return torch.cat((a, b * s.exp() + a), 1), s.flatten(1).sum(1)

    def inverse(self, y, condition=None):
        a, b = y.chunk(2, 1)
        s = self.k * a.abs()
        return torch.cat((a, (b - a) * s.exp()), 1), s.flatten(1).sum(1)


class Drift(Shift):
    """An inverse that is wrong by a factor."""

    def __init__(self, factor=1.01):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def inverse(self, y, condition=None):
        return (y - 0.5) * self.factor, y.new_zeros(len(y))


class SameLogDet(Bijection):
    """y = 2x, whose inverse forgets to turn the sign of its log-determinant."""

    def __init__(self):
        super().__init__()
        self.two = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x, condition=None):
        return x * self.two, x[0].numel() * self.two.log().expand(len(x))

    def inverse(self, y, condition=None):
        return y / self.two, y[0].numel() * self.two.log().expand(len(y))


class UnitBox(Shift):
    """Refuses what lies outside [0, 1]."""

    def forward(self, x, condition=None):
        outside = (x < 0) | (x > 1)
        if bool(outside.any()):
            raise DomainError("UnitBox: expected x in [0, 1].")
        return super().forward(x)


class GivesUp(Shift):
    """Its inverse raises where the first value is above 2."""

    def inverse(self, y, condition=None):
        if bool((y.flatten(1)[:, 0] > 2).any()):
            raise ConvergenceError("GivesUp: did not converge.")
        return super().inverse(y)


class Hole(Shift):
    """Its inverse returns NaN where the first value is above 2."""

    def inverse(self, y, condition=None):
        x, log_det = super().inverse(y)
        lost = y.flatten(1)[:, :1].reshape(-1, *[1] * (y.dim() - 1)) > 2
        return torch.where(lost, torch.nan, x), log_det


class Remembers(Shift):
    """Takes its buffer, its parameter and its mode from what it sees, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.seen = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, condition=None):
        with torch.no_grad():
            self.seen.copy_(x.sum())
        self.calls = self.calls + torch.rand(())
        return super().forward(x)


class Halves(Bijection):
    """A container of its own kind: one bijection for either half."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x, condition=None):
        a, b = x.chunk(2, 1)
        (a, i), (b, j) = self.first(a), self.second(b)
        return torch.cat((a, b), 1), i + j

    def inverse(self, y, condition=None):
        a, b = y.chunk(2, 1)
        (a, i), (b, j) = self.first.inverse(a), self.second.inverse(b)
        return torch.cat((a, b), 1), i + j


class Conditioned(Bijection):
    """y = x + c, c of as many features as x."""

    def __init__(self, features):
        super().__init__()
        self.condition_features = features

    def forward(self, x, condition=None):
        return x + condition, x.new_zeros(len(x))

    def inverse(self, y, condition=None):
        return y - condition, y.new_zeros(len(y))
