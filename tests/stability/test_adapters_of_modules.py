"""Modules with two directions and pairs of callables, and the log-determinants that they do or do not give."""

import pytest
import torch
from torch import nn

from invertible.errors import ConfigError, ShapeError
from invertible.stability import AuditOptions, audit, round_trip
from invertible.stability.adapters import adapt
from invertible.testing import check_bijection

QUICK = AuditOptions(samples=20, traced=4, ood=False, temperatures=(1.0,), sections=())


class Scaled(nn.Module):
    """y = x e^s, as a module in the manner of Glow's blocks."""

    def __init__(self):
        super().__init__()
        self.s = nn.Parameter(torch.tensor([0.3, -1.0, 0.5]))

    def forward(self, x):
        return x * self.s.exp(), self.s.sum()

    def reverse(self, y):
        return y * torch.exp(-self.s)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Scaled()

    def encode(self, x):
        return self.inner(x)[0]

    def decode_it(self, y):
        return self.inner.reverse(y)


class Flagged(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Scaled()

    def forward(self, x, reverse=False):
        return (self.inner.reverse(x), -self.inner.s.sum().view(1, 1)) if reverse else self.inner(x)


class Levels(nn.Module):
    """A stack that puts out half of its numbers early, with the results of Glow's well-known implementation."""

    def __init__(self):
        super().__init__()
        self.s = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        early, rest = x.chunk(2, 1)
        z = [early * self.s.exp(), (2 * rest)[:, :, None]]
        log_det = 2 * self.s + 2 * torch.tensor(2.0, dtype=x.dtype).log()
        return sum(part.square().flatten(1).sum(1) for part in z), log_det, z

    def reverse(self, z, reconstruct=False):
        if not reconstruct:
            raise AssertionError("drawn from the prior")
        return torch.cat((z[0] * torch.exp(-self.s), z[1].squeeze(2) / 2), 1)


MODEL = Named()
X = torch.randn(7, 3, dtype=torch.float64)
MAPS = {
    "reverse": lambda: adapt(Scaled()),
    "flag": lambda: adapt(Flagged()),
    "names": lambda: adapt(Named(), forward="encode", inverse="decode_it"),
    "name-of-one": lambda: adapt(Scaled(), inverse="reverse"),
    "methods": lambda: adapt((MODEL.encode, MODEL.decode_it)),
    "pair": lambda: adapt((lambda x: 2 * x, lambda y: y / 2)),
    "pair-with-log-det": lambda: adapt(
        forward=lambda x: (2 * x, 3 * x.new_tensor(2.0).log()),
        inverse=lambda y: (y / 2, -3 * y.new_tensor(2.0).log().expand(len(y), 1)),
    ),
    "given-number": lambda: adapt((torch.neg, torch.neg), log_det=0.0),
    "given-function": lambda: adapt((torch.sinh, torch.asinh), log_det=lambda x, y: x.cosh().log().sum(1)),
    "mixing": lambda: adapt((lambda x: x.cumsum(1), lambda y: y.diff(dim=1, prepend=y[:, :1] * 0))),
}


@pytest.mark.parametrize("name", MAPS)
def test_laws(name):
    bijection = MAPS[name]()
    check_bijection(bijection, X)
    assert audit(bijection, X.float(), options=QUICK).passed


def test_results_of_several_levels():
    bijection = adapt(Levels().double())
    x = torch.randn(5, 4, dtype=torch.float64)
    check_bijection(bijection, x)
    assert round_trip(bijection, x).worst < 1e-12


@pytest.mark.parametrize("name", ["reverse", "names", "flag", "methods"])
def test_the_modules_behind_the_maps_are_found(name):
    bijection = MAPS[name]()
    (parameter,) = bijection.parameters()
    assert parameter.shape == (3,)
    y, log_det = bijection(X.float())
    (gradient,) = torch.autograd.grad((y.sum() + log_det.sum()), parameter)
    torch.testing.assert_close(gradient, (X.float() * parameter.exp()).sum(0).detach() + 7)
    record = audit(bijection, X.float(), options=QUICK)
    assert record.control_note == ""
    assert record.sets[0].control.worst < 1e-14


def test_classes_bear_the_names_of_what_they_wrap():
    assert [type(MAPS[name]()).__name__ for name in ("reverse", "names", "methods")] == ["Scaled", "Named", "Named"]


def test_a_condition_is_the_second_argument():
    bijection = adapt((lambda x, c: (x + c, 0.0), lambda y, c: (y - c, 0)), condition_features=3)
    check_bijection(bijection, X, X.roll(1, 0))
    with pytest.raises(ShapeError, match="expected a condition of shape"):
        bijection(X)
    with pytest.raises(ShapeError, match=r"none was announced.*condition_features=3"):
        MAPS["pair"]()(X, X)


def test_a_missing_log_determinant_is_no_zero():
    wide = torch.randn(2, 300)
    pair = (lambda x: 2 * x, lambda y: y / 2)
    with pytest.raises(ConfigError, match=r"expected a log-determinant, got none from forward, and x has 300 numbers"):
        adapt(pair)(wide)
    _, log_det = adapt(pair, log_det=lambda x, y: 300 * x.new_tensor(2.0).log())(wide)
    assert torch.equal(log_det, torch.full((2,), 300 * torch.tensor(2.0).log().item()))


def test_wrong_inverses_and_log_determinants_are_found():
    drifted = audit(adapt((lambda x: 2 * x, lambda y: y / 2.02)), torch.randn(30, 3), options=QUICK)
    assert drifted.sets[0].cause == "wrong inverse"
    wrong = adapt(forward=lambda x: (2 * x, 3.0), inverse=lambda y: (y / 2, 3.0))
    assert audit(wrong, torch.randn(30, 3), options=QUICK).sets[0].cause == "wrong log-determinant"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: adapt(forward=torch.exp), ConfigError, "adapt: expected two callables, got forward="),
        (lambda: adapt((torch.exp, 3)), ConfigError, "adapt: expected two callables"),
        (
            lambda: adapt(Scaled(), forward="forwards", inverse="reverse"),
            ConfigError,
            "adapt: expected the name of a method of Scaled, got 'forwards'. It has forward, reverse.",
        ),
        (lambda: adapt((lambda x: {}, torch.neg))(X), ConfigError, "expected forward to return a tensor, .* got dict"),
        (
            lambda: adapt((lambda x: (x, x), torch.neg))(X),
            ShapeError,
            r"one number or one a sample, shape \(7,\), got \(7, 3\)",
        ),
        (
            lambda: adapt((lambda x: (x[:, :2], 0.0), torch.neg))(X),
            ShapeError,
            "as many numbers a sample as it takes, 3, got 2",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("error", [KeyError("weights"), NotImplementedError("\"svd\" not implemented for 'Half'")])
def test_errors_that_do_not_speak_of_a_missing_inverse_are_passed_on(error):
    def fails(y):
        raise error

    with pytest.raises(type(error)) as caught:
        adapt((torch.neg, fails)).inverse(X)
    assert caught.value is error
