"""Constants of activations: no difference quotient exceeds them, and they are nearly reached."""

import math

import pytest
import torch
from torch import nn

from invertible.blocks.lipschitz import CLipSwish, FullSort, LipschitzCube, LipSwish, MaxMin

ACTIVATIONS = {
    "lipswish": LipSwish,
    "lipswish, steep": lambda: LipSwish(20.0),
    "lipswish, flat": lambda: LipSwish(-200.0),
    "clipswish": CLipSwish,
    "maxmin": MaxMin,
    "fullsort": FullSort,
    "cube": LipschitzCube,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_no_jacobian_exceeds_the_constant(name, norm, float64):
    phi = ACTIVATIONS[name]().double()
    points = torch.cat([torch.randn(200, 5), torch.linspace(-6, 6, 8001)[:, None].expand(-1, 5)])
    jacobians = torch.func.vmap(torch.func.jacrev(lambda x: phi(x[None])[0]))(points)
    largest = float(torch.linalg.matrix_norm(jacobians.detach(), norm).max())
    # Rounded upwards in the sixth digit; ties of sorting leave a half.
    assert largest <= phi.lipschitz_bound(norm) * (1 + 1e-12)
    if "flat" not in name:
        assert largest >= phi.lipschitz_bound(norm) * (1 - 2e-6)


@pytest.mark.parametrize("name", ["lipswish", "clipswish"])
def test_smooth_ones_have_right_second_derivatives(name):
    phi = ACTIVATIONS[name]().double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(phi, x)


def test_formulas():
    x = torch.linspace(-3, 3, 24).view(4, 6)
    swish = LipSwish(0.5)
    scaled = x * torch.sigmoid(nn.functional.softplus(torch.tensor(0.5)) * x) / 1.1
    torch.testing.assert_close(swish(x), scaled)
    torch.testing.assert_close(CLipSwish()(x), torch.cat((swish(x), swish(-x)), 1) / 1.004)
    cube = torch.where(x >= 1, x - 2 / 3, torch.where(x <= -1, x + 2 / 3, x**3 / 3))
    torch.testing.assert_close(LipschitzCube()(x), cube)
    assert torch.equal(MaxMin()(torch.tensor([[1.0, 3.0, 5.0, 4.0, 9.0]])), torch.tensor([[3.0, 1.0, 5.0, 4.0, 9.0]]))
    image = torch.randn(2, 5, 3, 3)
    assert torch.equal(FullSort()(image), image.sort(1).values)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_empty_batches(name, dtype):
    phi = ACTIVATIONS[name]().to(dtype)
    x = torch.randn(0, 4, 2, 2, dtype=dtype)
    assert phi(x).dtype == dtype
    assert phi(x).shape[0] == 0
    assert bool(phi(100 * torch.randn(3, 4, dtype=dtype)).isfinite().all())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_magnitudes(name):
    phi, ceiling = ACTIVATIONS[name](), torch.tensor([0.5, 2.0, 0.1, 7.0], dtype=torch.float64)
    x = (torch.rand(2000, 4, dtype=torch.float64) * 2 - 1) * ceiling
    assert bool((phi.double()(x).abs().amax(0) <= phi.magnitude_bound(ceiling)).all())
