"""What every operator owes: its exact adjoint, linearity, independent rows, derivatives."""

import math

import pytest
import torch

from invertible.errors import ConfigError, ShapeError
from invertible.physics.adjointness import adjoint_error, check_operator
from invertible.physics.noise import add_noise
from invertible.physics.operator import Observation
from tests.physics.operators import OPERATORS, make

every = pytest.mark.parametrize("name", OPERATORS)
DTYPES = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES.items(), ids=str)
@every
def test_laws(name, dtype, tolerance):
    operator, x = make(name, dtype)
    report = check_operator(operator, x)
    assert report.tolerance == tolerance
    assert max(report.adjoint, report.linearity, report.normal, report.gradient) <= tolerance
    assert operator.adjoint(operator(x)).dtype == dtype


@every
def test_the_gradient_is_that_of_the_loss(name):
    operator, x = make(name, torch.float64)
    observation = add_noise(Observation(operator, operator(x)), 0.5, generator=1)
    leaf = torch.randn_like(x).requires_grad_()
    ((operator(leaf) - observation.data).abs() ** 2).sum().div(2).backward()
    torch.testing.assert_close(observation.gradient(leaf.detach()), leaf.grad, rtol=1e-10, atol=1e-10)


@every
def test_noise_stays_where_the_operator_measures(name):
    operator, x = make(name, torch.float64)
    data = torch.zeros_like(operator(x))
    noisy = add_noise(Observation(operator, data), 1.0, generator=0).data
    torch.testing.assert_close(operator.measured(noisy), noisy, rtol=0, atol=0)
    assert noisy.abs().max() > 0


@every
def test_an_operator_moves_to_a_device(name):
    operator, x = make(name, torch.float32)
    observation = Observation(operator, operator(x)).to("meta")
    assert all(buffer.device.type == "meta" for buffer in observation.operator.buffers())
    assert all(buffer.device.type == "cpu" for buffer in operator.buffers())
    if any(True for _ in operator.buffers()):
        with pytest.raises((ShapeError, RuntimeError)):
            operator(observation.data.new_zeros(x.shape))


@pytest.mark.gpu
@every
def test_laws_on_a_gpu(name):
    operator, x = make(name, torch.float32)
    there = Observation(operator, operator(x)).to("cuda")
    check_operator(there.operator, x.cuda())
    torch.testing.assert_close(there.operator(x.cuda()).cpu(), operator(x), rtol=1e-4, atol=1e-4)


def test_the_adjoint_error_sees_a_wrong_scale():
    operator, x = make("mri-sense", torch.float64)
    exact = operator.adjoint
    operator.adjoint = lambda y: exact(y) * (1 + 1e-9)
    assert 1e-11 < adjoint_error(operator, x) < 1e-9
    operator.adjoint = lambda y: exact(y) * math.nan
    assert math.isnan(adjoint_error(operator, x))


def test_an_operator_of_zero_has_an_adjoint_of_zero():
    operator, x = make("denoising", torch.float64)
    operator.forward = lambda x: 0 * x
    assert adjoint_error(operator, x) == math.inf
    operator.adjoint = operator.forward
    assert adjoint_error(operator, tuple(x.shape)) == 0


# Each breaks one law and no law that is checked before it.
MUTANTS = {
    "deterministic": lambda operator, forward, adjoint: {"forward": lambda x: forward(x) + 1e-9 * torch.randn(())},
    "rows independent": lambda operator, forward, adjoint: {"forward": lambda x: forward(x + x.roll(1, 0))},
    "linear": lambda operator, forward, adjoint: {"forward": lambda x: forward(x) + 0.1},
    "adjoint linear": lambda operator, forward, adjoint: {"adjoint": lambda y: adjoint(y).clamp(max=1)},
    "adjoint": lambda operator, forward, adjoint: {"adjoint": lambda y: adjoint(y.conj())},
    "normal": lambda operator, forward, adjoint: {"normal": forward_of_normal(operator)},
    "gradient": lambda operator, forward, adjoint: {"forward": lambda x: forward(x.detach())},
}


def forward_of_normal(operator):
    normal = operator.normal
    return lambda x: normal(x) * (1 + 1e-9)


@pytest.mark.parametrize("law", MUTANTS)
def test_a_broken_law_is_named(law):
    operator, x = make("mri-sense", torch.float64)
    for name, method in MUTANTS[law](operator, operator.forward, operator.adjoint).items():
        setattr(operator, name, method)
    with pytest.raises(
        ConfigError, match=rf"^check_operator: expected the law '{law}' to hold within 1e-12, got .*\.$"
    ):
        check_operator(operator, x)


def test_outputs_of_wrong_shape_or_not_finite_are_refused():
    operator, x = make("denoising", torch.float64)
    operator.adjoint = lambda y: y[:, :1]
    with pytest.raises(ShapeError, match="A\\^H y of x's shape"):
        check_operator(operator, x)
    operator.adjoint = lambda y: y
    operator.forward = lambda x: x.sum(0)
    with pytest.raises(ShapeError, match="3 rows"):
        check_operator(operator, x)
    operator.forward = lambda x: x * math.inf
    with pytest.raises(ValueError, match="finite A x"):
        check_operator(operator, x)
