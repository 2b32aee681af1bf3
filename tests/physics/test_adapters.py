"""Operators of others: objects, functions, derived adjoints, deepinv."""

import pytest
import torch
from torch import nn

from invertible.errors import ConfigError
from invertible.physics.adapters import as_operator
from invertible.physics.adjointness import check_operator
from invertible.physics.denoising import Denoising
from tests.physics.operators import Noisy


def test_an_operator_is_returned_as_it_is():
    operator = Denoising()
    assert as_operator(operator) is operator


def test_the_noisy_forward_of_an_object_with_a_is_not_used():
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(as_operator(Noisy())(x), x.roll(1, -1))


def test_a_module_moves_and_trains_with_its_operator():
    convolution = nn.Conv2d(1, 2, 3, bias=False)
    operator = as_operator(convolution, x_shape=(1, 6, 6)).double()
    assert convolution.weight.dtype == torch.float64
    check_operator(operator, torch.zeros(2, 1, 6, 6, dtype=torch.float64))
    operator.adjoint(torch.randn(2, 2, 4, 4, dtype=torch.float64)).sum().backward()
    assert convolution.weight.grad.abs().sum() > 0


def test_a_derived_adjoint_can_be_differentiated_and_leaves_no_graph_where_gradients_are_off():
    operator = as_operator(lambda x: x.diff(dim=-1), x_shape=(1, 6))
    y = torch.randn(2, 1, 5, requires_grad=True)
    operator.adjoint(y).square().sum().backward()
    torch.testing.assert_close(y.grad, 2 * operator(operator.adjoint(y.detach())))
    with torch.no_grad():
        assert not operator.adjoint(y).requires_grad


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x + 1, "linear function, got one for which .* Subtract A\\(0\\)"),
        (lambda x: x.abs(), "linear function"),
        (lambda x: x + torch.randn_like(x), "linear function"),
        (lambda x: x * float("nan"), "linear function"),
        (lambda x: x.detach() * 2, "autograd can differentiate"),
    ],
)
def test_functions_that_are_not_linear_are_refused(function, expected):
    with pytest.raises(ConfigError, match=rf"^as_operator: expected a .*{expected}"):
        as_operator(function, x_shape=(1, 4, 4))


def test_what_has_no_adjoint_is_refused():
    with pytest.raises(ConfigError, match="expected an adjoint for a function, got none"):
        as_operator(lambda x: x)
    with pytest.raises(ConfigError, match="got int"):
        as_operator(3)

    class Nonlinear:
        A = staticmethod(torch.abs)
        __call__ = A

    with pytest.raises(ConfigError, match="got Nonlinear. A map that is not linear"):
        as_operator(Nonlinear())


def test_a_wrong_adjoint_is_found_by_the_check():
    operator = as_operator(lambda x: x.flip(-1) * 2, lambda y: y.flip(-1))
    with pytest.raises(ConfigError, match="the law 'adjoint'"):
        check_operator(operator, (2, 1, 4, 4))


def deepinv_operators():
    try:
        from deepinv import physics
    except (ImportError, RuntimeError):  # torchvision, which it needs, refuses a torch that it was not built for
        pytest.skip("deepinv is not installed")
    mask = (torch.rand(1, 1, 12, 15) < 0.5).float()
    noise = physics.GaussianNoise(0.1)
    yield physics.MRI(mask=mask.expand(1, 2, -1, -1), img_size=(2, 12, 15), noise_model=noise), (2, 2, 12, 15)
    yield physics.Inpainting((1, 12, 15), mask=mask[0], noise_model=noise), (2, 1, 12, 15)
    kernel = torch.rand(1, 1, 3, 5)
    yield physics.Blur(filter=kernel, padding="circular", noise_model=noise), (2, 1, 12, 15)
    yield physics.Downsampling(img_size=(1, 12, 16), filter="gaussian", factor=2, noise_model=noise), (2, 1, 12, 16)


def test_deepinv():
    for physics, shape in deepinv_operators():
        operator = as_operator(physics)
        x = torch.rand(shape)
        assert check_operator(operator, x).adjoint <= 1e-6
        assert torch.equal(operator(x), physics.A(x))
        assert not torch.equal(physics(x), operator(x))
