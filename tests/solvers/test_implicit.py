"""Derivatives through the solution of y = x + g(x)."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from invertible.bijection import Bijection
from invertible.errors import ConfigError, ConvergenceError, ShapeError
from invertible.solvers.fixed_point import solve_residual
from invertible.solvers.implicit import implicit_solution
from invertible.solvers.second_derivatives import SecondDerivativeError
from invertible.stability.products import Linearization
from invertible.testing import check_bijection

L = 0.9


class Net(nn.Module):
    """tanh(W x + C c), of Lipschitz constant L in x."""

    def __init__(self, features, condition_features=0, *, linear=False):
        super().__init__()
        w = torch.randn(features, features, dtype=torch.float64)
        self.weight = nn.Parameter(w * L / torch.linalg.matrix_norm(w, 2))
        self.shift = nn.Parameter(torch.randn(condition_features, features, dtype=torch.float64))
        self.linear = linear

    def forward(self, x, condition=None):
        h = x.to(self.weight.dtype) @ self.weight.T
        h = h if condition is None else h + condition @ self.shift
        return h if self.linear else torch.tanh(h)


class Residual(Bijection):
    def __init__(self, features, condition_features=0):
        super().__init__()
        self.net, self.condition_features = Net(features, condition_features), condition_features

    def forward(self, x, condition=None):
        rows = 0 if condition is not None else None
        jacobian = torch.func.vmap(torch.func.jacrev(self.point), (0, rows))(x, condition)
        return x + self.net(x, condition), torch.linalg.slogdet(jacobian)[1]

    def point(self, x, condition):
        return x + self.net(x, condition)

    def inverse(self, y, condition=None):
        x = solution(self.net, y, condition)
        return x, -self(x, condition)[1]


def solution(net, y, condition=None):
    found = solve_residual(
        lambda x, rows: net(x, None if condition is None else condition[rows]), y, lipschitz=L, owner="Residual"
    )
    return implicit_solution(lambda x: net(x, condition), found.x, y, owner="Residual")


def unrolled(net, y, condition=None):
    x = y
    for _ in range(400):
        x = y - net(x, condition)
    return x


@pytest.fixture
def setting():
    condition = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    return Net(4, 2), torch.randn(5, 4, dtype=torch.float64, requires_grad=True), condition


def test_gradients_are_those_of_the_unrolled_iteration(setting):
    net, y, condition = setting
    leaves = [y, condition, *net.parameters()]

    def loss(solve):
        x = solve(net, y, condition)
        return (x**2).sum() + x.sin().sum()  # x feeds it twice

    expected = torch.autograd.grad(loss(unrolled), leaves)
    for a, b in zip(torch.autograd.grad(loss(solution), leaves), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_gradcheck_both_modes(setting):
    net, y, condition = setting[0], *(leaf[:2].detach().requires_grad_() for leaf in setting[1:])
    weight, shift = (p.detach().clone().requires_grad_() for p in net.parameters())

    def run(y, condition, weight, shift):
        return solution(lambda x, c: torch.tanh(x @ weight.T + c @ shift), y, condition)

    assert torch.autograd.gradcheck(run, (y, condition, weight, shift), check_forward_ad=True)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("moving", ["y", "condition", "both"])
def test_forward_mode(setting, grad, moving):
    net, y, condition = setting
    dy, dc = torch.randn_like(y), torch.randn_like(condition)
    with torch.set_grad_enabled(grad), forward_ad.dual_level():
        dual_y = forward_ad.make_dual(y.detach(), dy) if moving != "condition" else y.detach()
        dual_c = forward_ad.make_dual(condition.detach(), dc) if moving != "y" else condition.detach()
        found = forward_ad.unpack_dual(solution(net, dual_y, dual_c)).tangent.detach().clone()
        expected = forward_ad.unpack_dual(unrolled(net, dual_y, dual_c)).tangent.detach().clone()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_laws_of_bijections():
    check_bijection(Residual(4), torch.randn(6, 4))
    check_bijection(Residual(3, 2), torch.randn(6, 3), torch.randn(6, 2))


def test_products_of_the_inverse_jacobian():
    net, y = Net(5), torch.randn(3, 5, dtype=torch.float64)
    inverse = Linearization(lambda y, _: (solution(net, y), y.new_zeros(len(y))), y)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: x + net(x)))(inverse.y)
    v = torch.randn_like(y)
    expected = torch.linalg.solve(jacobian, v), torch.linalg.solve(jacobian.mT, v)
    torch.testing.assert_close(inverse.jvp(v), expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inverse.vjp(v), expected[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lipschitz", [0.5, 0.99, 0.9999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_close_to_singular(lipschitz, dtype):
    """Eigenvalues of I + J from 1 - L to 1 + L; in dtype to its eps times the condition number."""
    q = torch.linalg.qr(torch.randn(50, 50, dtype=torch.float64))[0]
    a = q @ torch.diag(torch.linspace(-lipschitz, lipschitz, 50, dtype=torch.float64)) @ q.T
    y = torch.randn(4, 50, dtype=dtype, requires_grad=True)
    x = torch.linalg.solve(torch.eye(50, dtype=torch.float64) + a, y.detach().double().T).T.to(dtype)
    w = torch.randn(4, 50, dtype=dtype)
    (found,) = torch.autograd.grad(implicit_solution(lambda x: x @ a.T.to(dtype), x, y), y, w)
    expected = torch.linalg.solve(torch.eye(50, dtype=torch.float64) + a, w.double().T).T
    error = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(error.max()) <= 64 * torch.finfo(dtype).eps / (1 - lipschitz)


def test_nothing_asked_for_costs_nothing():
    net, y = Net(3), torch.randn(4, 3, dtype=torch.float64)
    calls = []

    def g(x):
        calls.append(1)
        return net(x)

    with torch.no_grad():
        x = implicit_solution(g, y, y.clone().requires_grad_())
    assert not calls
    assert not x.requires_grad
    net.requires_grad_(False)
    assert not implicit_solution(g, y, y).requires_grad
    assert implicit_solution(g, y, y.clone().requires_grad_()).requires_grad
    net.shift.requires_grad_()  # which this g does not use
    assert not implicit_solution(g, y, y).requires_grad
    net.weight.requires_grad_()
    assert implicit_solution(g, y, y).requires_grad


def test_frozen_parameters_pass_gradients_to_y():
    net = Net(3).requires_grad_(False)
    y = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(solution(net, y).sum(), y)
    (expected,) = torch.autograd.grad(unrolled(net, y).sum(), y)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert net.weight.grad is None


def test_one_evaluation_with_a_graph(setting):
    net, y, condition = setting
    x = solve_residual(lambda x, rows: net(x, condition[rows]), y, lipschitz=L).x
    calls = []

    def g(x):
        calls.append(1)
        return net(x, condition)

    implicit_solution(g, x, y).square().sum().backward()
    assert len(calls) == 1
    assert net.weight.grad is not None


def test_backward_twice_over_a_kept_graph(setting):
    net, y, condition = setting
    x = solution(net, y, condition)
    (first,) = torch.autograd.grad(x.sum(), y, retain_graph=True)
    (second,) = torch.autograd.grad(x.sum(), y)
    assert torch.equal(first, second)


def test_second_derivatives_are_refused(setting):
    net, y, condition = setting
    for loss in (torch.sum, lambda x: (x**3).sum()):
        (first,) = torch.autograd.grad(loss(solution(net, y, condition)), y, create_graph=True)
        with pytest.raises(SecondDerivativeError, match="knows first derivatives"):
            first.sum().backward()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(y, torch.randn_like(y))
        x = solution(net, dual, condition)
        with pytest.raises(SecondDerivativeError):
            torch.autograd.grad(x.sum(), y, retain_graph=True)
        with pytest.raises(SecondDerivativeError):
            forward_ad.unpack_dual(x).tangent.sum().backward()


def test_gradients_that_are_not_finite_stay_in_their_sample(setting):
    net, y, condition = setting
    w = torch.ones_like(y)
    w[1, 0] = math.inf
    (found,) = torch.autograd.grad(solution(net, y, condition), y, w)
    assert found.isfinite().all(1).tolist() == [True, False, True, True, True]


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (4, 1)])
def test_batches(shape):
    net = Net(shape[1])
    y = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    solution(net, y).sum().backward()
    assert y.grad is not None
    assert y.grad.shape == shape


def test_images():
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    weight = (weight / weight.abs().sum() * L).requires_grad_()
    y = torch.randn(3, 2, 5, 5, dtype=torch.float64, requires_grad=True)

    def net(x, condition=None):
        return torch.nn.functional.conv2d(x, weight, padding=1).tanh()

    found = torch.autograd.grad(solution(net, y).square().sum(), (y, weight))
    expected = torch.autograd.grad(unrolled(net, y).square().sum(), (y, weight))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_half_precision():
    net = Net(4).bfloat16()
    y = torch.randn(8, 4).bfloat16().requires_grad_()
    x = solution(net, y)
    x.sum().backward()
    assert x.dtype == y.grad.dtype == torch.bfloat16
    double = Net(4)
    double.load_state_dict(net.state_dict())
    z = y.detach().double().requires_grad_()
    unrolled(double, z).sum().backward()
    assert float((y.grad - z.grad).norm() / z.grad.norm()) < 0.1


def test_autocast():
    net = Net(4).float()
    y = torch.randn(8, 4, requires_grad=True)
    (expected,) = torch.autograd.grad(solution(net, y).sum(), y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = solution(net, y)
    (found,) = torch.autograd.grad(x.sum(), y)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_singular_systems_are_named():
    y = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    slope = torch.tensor([[0.5], [-1.0], [0.5]], dtype=torch.float64)
    x = implicit_solution(lambda x: slope * x, torch.zeros(3, 2, dtype=torch.float64), y, owner="MyBlock")
    with pytest.raises(ConvergenceError, match="MyBlock: expected the derivative .* in sample 1"):
        x.sum().backward()


def test_arguments():
    y = torch.randn(4, 3)
    with pytest.raises(ShapeError, match="expected x of y's shape"):
        implicit_solution(lambda x: x, y[:2], y)
    with pytest.raises(ConfigError, match="torch.func transforms"):
        torch.func.jacrev(lambda y: implicit_solution(lambda x: x, y, y))(y)
