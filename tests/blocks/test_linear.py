"""Linear blocks: factorised log-determinants, orthogonality, and the convolution's factor H W."""

import pytest
import torch

from invertible import ActNorm, Chain, ConfigError, InvertibleConv1x1, InvertibleLinear
from invertible.blocks.weights import OrthogonalWeight
from tests.tools import randomise

pytestmark = pytest.mark.usefixtures("float64")
NAMES = ["plu", "orthogonal", "free"]


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_starts_orthogonal(name: str) -> None:
    weight, log_abs_det = InvertibleLinear(9, name).weight()
    assert torch.allclose(weight @ weight.T, torch.eye(9), atol=1e-6 if name != "orthogonal" else 1e-13)
    assert abs(float(log_abs_det)) < 1e-6


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_inverse_and_log_det_of_random_weights(name: str) -> None:
    for size in (1, 2, 12, 48):
        weight = randomise(InvertibleLinear(size, name), 0.1).weight
        matrix, log_abs_det = weight()
        inverse, log_abs_det_back = weight.inverse()
        condition = float(torch.linalg.cond(matrix))
        assert (matrix @ inverse - torch.eye(size)).abs().max() < 1e-14 * condition * size
        assert float(log_abs_det) == pytest.approx(float(torch.linalg.slogdet(matrix)[1]), abs=1e-11)
        assert float(log_abs_det_back) == pytest.approx(-float(log_abs_det), abs=1e-11)
        bounds = weight.bounds()
        assert bounds.forward * bounds.inverse == pytest.approx(condition, rel=1e-6)


@pytest.mark.parametrize("height", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_log_det_of_the_convolution_counts_every_pixel(name: str, height: int) -> None:
    block = randomise(InvertibleConv1x1(3, name), 0.2)
    _, log_det = block(torch.randn(2, 3, height, 5))
    assert torch.allclose(log_det, height * 5 * block.weight()[1].expand(2))


def test_convolution_is_the_linear_map_at_every_pixel() -> None:
    conv = randomise(InvertibleConv1x1(3), 0.2)
    x = torch.randn(2, 3, 4, 4)
    expected = torch.einsum("ij,bjhw->bihw", conv.weight()[0], x)
    assert torch.allclose(conv(x)[0], expected)


@pytest.mark.parametrize("reflections", [1, 2, 3, 8])
@torch.no_grad()
def test_householder_product_equals_reflections_one_by_one(reflections: int) -> None:
    weight = OrthogonalWeight(8, reflections)
    product = torch.eye(8)
    for vector in weight.vectors.T:
        product = product @ (torch.eye(8) - 2 * torch.outer(vector, vector) / vector.square().sum())
    assert torch.allclose(weight()[0], product, atol=1e-12)
    assert torch.linalg.det(product).item() == pytest.approx((-1) ** reflections)


@torch.no_grad()
def test_orthogonal_stays_orthogonal_in_float32_whatever_the_parameters() -> None:
    for scale in (1e-3, 1.0, 1e3):
        weight = OrthogonalWeight(32).float()
        with torch.no_grad():
            weight.vectors.mul_(scale)
        matrix = weight()[0]
        assert (matrix @ matrix.T - torch.eye(32, dtype=torch.float32)).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(6,), (6, 4, 5)])
def test_actnorm_and_linear_as_one_matrix_give_what_they_give_apart(name: str, shape: tuple[int, ...]) -> None:
    kind = InvertibleLinear if len(shape) == 1 else InvertibleConv1x1
    chain = Chain(ActNorm(6), kind(6, name), ActNorm(6))
    x = 2 + 3 * torch.randn(16, *shape)
    chain(x)
    randomise(chain, 0.1)
    y, total = x, torch.zeros(16)
    for block in chain:
        y, log_det = block(y)
        total = total + log_det
    together, log_det = chain(x)
    assert torch.allclose(together, y, atol=1e-12)
    assert torch.allclose(log_det, total, atol=1e-12)
    back, log_det_back = chain.inverse(y)
    assert torch.allclose(back, x, atol=1e-11)
    assert torch.allclose(log_det_back, -total, atol=1e-12)
    gradient = torch.autograd.grad(together.square().sum() + log_det.sum(), list(chain.parameters()))
    expected = torch.autograd.grad(y.square().sum() + total.sum(), list(chain.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-9) for a, b in zip(gradient, expected, strict=True))


def test_training_moves_plu_inside_its_structure() -> None:
    block = InvertibleLinear(5)
    optimizer = torch.optim.SGD(block.parameters(), 0.1)
    block(torch.randn(8, 5))[0].square().sum().backward()
    optimizer.step()
    matrix, log_abs_det = block.weight()
    assert log_abs_det.item() == pytest.approx(torch.linalg.slogdet(matrix)[1].item(), abs=1e-12)


def test_refuses_wrong_options() -> None:
    with pytest.raises(ConfigError, match="expected parametrization to be one of 'plu', 'orthogonal', 'free'"):
        InvertibleLinear(3, "qr")
    with pytest.raises(ConfigError, match="reflections of at most 3, got 4"):
        InvertibleLinear(3, "orthogonal", reflections=4)
    with pytest.raises(ConfigError, match="reflections with parametrization='orthogonal' only"):
        InvertibleConv1x1(3, "plu", reflections=2)
    with pytest.raises(ConfigError, match="size to be an integer of at least 1"):
        InvertibleConv1x1(0)
