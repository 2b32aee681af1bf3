import pytest
import torch
from torch.autograd.functional import jacobian

from invertible.bijection import Bijection
from invertible.blocks import ActNorm, AffineCoupling, Flatten, InvertibleLinear, SplineCoupling
from invertible.chain import Chain
from invertible.stability.products import (
    Linearization,
    NotDifferentiableError,
    SolvedInverse,
    dot,
    least_squares,
    norm,
    times,
)
from tests.registry import make
from tests.stability.maps import Squash
from tests.tools import randomise

pytestmark = pytest.mark.usefixtures("float64")


class OnlyBackward(torch.autograd.Function):
    """x^3 + x without a forward mode, differentiable twice backward."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3 + x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (3 * x**2 + 1)


class Cubic(Bijection):
    def forward(self, x, condition=None):
        y = OnlyBackward.apply(x)
        return y, (3 * x**2 + 1).log().flatten(1).sum(1)


class Iterated(Bijection):
    """y = x + a tanh(x W), inverted by fixed-point iterations without grad."""

    def __init__(self, features=5, a=0.5):
        super().__init__()
        q, _ = torch.linalg.qr(torch.randn(features, features))
        self.weight, self.a = torch.nn.Parameter(q), a

    def forward(self, x, condition=None):
        return x + self.a * torch.tanh(x @ self.weight), x.new_zeros(len(x))

    @torch.no_grad()
    def inverse(self, y, condition=None):
        x = y
        for _ in range(100):
            x = y - self.a * torch.tanh(x @ self.weight)
        return x, y.new_zeros(len(y))


def dense(direction, x, condition=None):
    """J of every sample, (B, D, D), by another means."""
    found = []
    for index in range(len(x)):
        given = None if condition is None else condition[index : index + 1]

        def of_one(one, given=given):
            return direction(one[None], given)[0].flatten()

        found.append(jacobian(of_one, x[index].detach()).reshape(x[0].numel(), x[0].numel()))
    return torch.stack(found)


@pytest.mark.parametrize("way", ["forward", "inverse"])
@pytest.mark.parametrize("name", ["affine-tanh-exp-glow", "affine-conditional", "linear-plu", "factor-out", "logit"])
def test_products_are_those_of_the_dense_jacobian(name, way):
    block, x, condition = make(name)
    direction = block.__call__ if way == "forward" else block.inverse
    point = x if way == "forward" else block(x, condition)[0].detach()
    linear = Linearization(direction, point, condition)
    matrix = dense(direction, point, condition)
    v, w = torch.randn_like(linear.x), torch.randn_like(linear.y)
    by_hand = torch.einsum("bij,bj->bi", matrix, v.flatten(1))
    assert torch.allclose(linear.jvp(v).flatten(1), by_hand, rtol=1e-9, atol=1e-11)
    by_hand = torch.einsum("bij,bi->bj", matrix, w.flatten(1))
    assert torch.allclose(linear.vjp(w).flatten(1), by_hand, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["spline-conditional", "spline-images", "squeeze", "flatten", "conv1x1-orthogonal"])
def test_either_product_is_the_transpose_of_the_other(name):
    block, x, condition = make(name)
    linear = Linearization(block, x, condition)
    v, w = torch.randn_like(linear.x), torch.randn_like(linear.y)
    assert torch.allclose(dot(linear.jvp(v), w), dot(v, linear.vjp(w)), rtol=1e-9, atol=1e-11)


def test_what_has_no_forward_mode_is_differentiated_twice_backward():
    x = torch.randn(3, 4)
    linear = Linearization(Chain(Cubic()), x)
    v = torch.randn_like(x)
    for _ in range(2):
        assert torch.allclose(linear.jvp(v), (3 * x**2 + 1) * v)


def test_samples_do_not_mix():
    block = randomise(AffineCoupling(6))
    x, w = torch.randn(5, 6), torch.randn(5, 6)
    together = Linearization(block, x).vjp(w)
    alone = torch.cat([Linearization(block, x[i : i + 1]).vjp(w[i : i + 1]) for i in range(5)])
    assert torch.allclose(together, alone)


def test_products_of_the_inverse_undo_those_of_the_map():
    net = randomise(Chain(ActNorm(6), InvertibleLinear(6), SplineCoupling(6)), 0.1)
    x = torch.randn(4, 6)
    there = Linearization(net, x)
    back = Linearization(net.inverse, there.y)
    v = torch.randn_like(x)
    assert torch.allclose(back.jvp(there.jvp(v)), v, atol=1e-9)
    assert torch.allclose(there.vjp(back.vjp(v)), v, atol=1e-9)


def test_an_inverse_without_grad_is_refused_and_solved_for():
    block = Iterated()
    x = torch.randn(4, 5)
    linear = Linearization(block, x)
    with pytest.raises(NotDifferentiableError):
        Linearization(block.inverse, linear.y)
    solved, v = SolvedInverse(linear), torch.randn(4, 5)
    matrix = dense(block, x)
    assert torch.allclose(solved.jvp(v), torch.linalg.solve(matrix, v[..., None])[..., 0], atol=1e-6)
    assert torch.allclose(solved.vjp(v), torch.linalg.solve(matrix.mT, v[..., None])[..., 0], atol=1e-6)
    assert bool(solved.converged.all())


def test_a_system_that_is_not_solved_says_so():
    linear = Linearization(Squash(8.0), torch.tensor([[2.0, 0.5], [0.01, 0.5]]))
    solved = SolvedInverse(linear, tolerance=1e-14, iterations=1)
    solved.jvp(torch.ones(2, 2))
    assert not bool(solved.converged.all())


def test_least_squares_solves_every_sample_for_itself():
    matrices = torch.randn(6, 4, 4) + 3 * torch.eye(4)
    matrices[2] = 0
    b = torch.randn(6, 4)
    b[2] = 0
    product = lambda u: torch.einsum("bij,bj->bi", matrices, u)  # noqa: E731
    transposed = lambda w: torch.einsum("bij,bi->bj", matrices, w)  # noqa: E731
    found, converged = least_squares(product, transposed, b, torch.zeros(6, 4), 1e-10, 200)
    assert bool(converged.all())
    assert torch.allclose(product(found), b, atol=1e-8)


def test_the_model_keeps_shapes_that_differ_on_either_side():
    linear = Linearization(Flatten((2, 3)), torch.randn(4, 2, 3))
    assert linear.jvp(torch.randn(4, 2, 3)).shape == (4, 6)
    assert linear.vjp(torch.randn(4, 6)).shape == (4, 2, 3)
    assert torch.allclose(norm(times(torch.arange(4.0), torch.ones(4, 2, 3))), torch.arange(4.0) * 6**0.5)
