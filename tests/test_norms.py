"""Bounds are bounds: no measured norm exceeds one."""

import math

import pytest
import torch
from torch import nn

from invertible.blocks.nets import MLP, ConvNet, ResidualConvNet
from invertible.norms import ACTIVATIONS, convolution_norm, lipschitz_bound, matrix_norm
from tests.tools import randomise


def jacobian_norm(net: nn.Module, shape: tuple[int, ...]) -> float:
    x = torch.randn(shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v[None])[0].flatten(), x)
    return float(torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), 2))


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [4, 7])
def test_convolution_norm_bounds_the_dense_operator(kernel: int, stride: int, size: int) -> None:
    for _ in range(5):
        conv = nn.Conv2d(3, 4, kernel, stride, padding=kernel // 2, bias=False).double()
        exact = jacobian_norm(conv, (3, size, size))
        assert exact <= convolution_norm(conv.weight) * (1 + 1e-12)
        if kernel == 1 and stride == 1:
            assert exact == pytest.approx(convolution_norm(conv.weight))


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (MLP(5, 4, (7, 6)), (5,)),
        (ConvNet(3, 4, (6, 6)), (3, 5, 5)),
        (ResidualConvNet(2, 4, 5, 2), (2, 4, 4)),
        (nn.Sequential(nn.Linear(4, 5), nn.ELU(1.5), nn.Linear(5, 3), nn.LeakyReLU(2.0)), (4,)),
    ],
    ids=["mlp", "convnet", "residual", "sequential"],
)
def test_network_bound_holds(net: nn.Module, shape: tuple[int, ...]) -> None:
    for _ in range(20):
        randomise(net).double()
        bound = lipschitz_bound(net)
        assert math.isfinite(bound)
        assert max(jacobian_norm(net, shape) for _ in range(5)) <= bound


def test_activation_constants_bound_their_slopes() -> None:
    x = torch.linspace(-30, 30, 600_001, dtype=torch.float64, requires_grad=True)
    for kind, constant in ACTIVATIONS.items():
        if math.isfinite(constant):
            (slope,) = torch.autograd.grad(kind()(x).sum(), x)
            assert slope.abs().max() <= constant * (1 + 1e-12), kind


def test_unknown_modules_have_no_bound() -> None:
    assert lipschitz_bound(nn.Sequential(nn.Linear(2, 2), nn.Bilinear(1, 1, 1))) == math.inf
    assert lipschitz_bound(nn.Conv2d(4, 4, 1, groups=2)) == math.inf


def test_matrix_norm_is_the_largest_singular_value() -> None:
    assert matrix_norm(torch.diag(torch.tensor([1.0, -3.0]))) == pytest.approx(3.0)
