"""Composition: order, indexing, conditions, and parts kept apart."""

import pytest
import torch
from torch import Tensor

from invertible import (
    AdditiveCoupling,
    AffineCoupling,
    Bijection,
    Chain,
    ConfigError,
    DiagonalScaling,
    Domain,
    ShapeError,
)
from tests.tools import randomise

pytestmark = pytest.mark.usefixtures("float64")


class Shift(Bijection):
    """y = x + a: enough to see in which order blocks run."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = a

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x + self.a, torch.full((len(x),), self.a)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y - self.a, torch.full((len(y),), -self.a)


def couplings(features: int, count: int, **options: object) -> list[Bijection]:
    return [randomise(AffineCoupling(features, flip=i % 2 == 1, **options)) for i in range(count)]


def test_first_block_is_applied_first_and_log_dets_add() -> None:
    scaling = randomise(DiagonalScaling(3))
    x = torch.randn(5, 3)
    y, log_det = Chain(Shift(1.0), scaling)(x)
    expected, scaling_log_det = scaling(x + 1)
    assert torch.equal(y, expected)
    assert torch.allclose(log_det, scaling_log_det + 1)


def test_indexes_slices_and_iterates() -> None:
    blocks = [Shift(float(i)) for i in range(4)]
    chain = Chain(*blocks)
    assert len(chain) == 4
    assert list(chain) == blocks
    assert chain[2] is blocks[2]
    assert list(chain[1:3]) == blocks[1:3]
    assert list(chain[-2:]) == blocks[-2:]


def test_empty_chain_is_the_identity() -> None:
    x = torch.randn(3, 2)
    y, log_det = Chain()(x)
    assert torch.equal(x, y)
    assert log_det.tolist() == [0.0, 0.0, 0.0]


def test_inverted_swaps_directions_and_back() -> None:
    chain = Chain(*couplings(4, 3))
    y = torch.randn(6, 4)
    assert all(torch.equal(a, b) for a, b in zip(chain.inverted(y), chain.inverse(y), strict=True))
    assert chain.inverted.inverted is chain


@pytest.mark.parametrize("features", [4, 5])
@pytest.mark.parametrize("mask", ["half", "alternating"])
def test_parts_kept_apart_give_what_block_by_block_gives(features: int, mask: str) -> None:
    blocks = [*couplings(features, 3, mask=mask), randomise(AdditiveCoupling(features, mask=mask))]
    chain, x = Chain(*blocks), torch.randn(7, features)
    y, total = x, torch.zeros(7)
    for block in blocks:
        y, log_det = block(y)
        total = total + log_det
    together = chain(x)
    assert torch.allclose(together[0], y, rtol=1e-14, atol=0)
    assert torch.allclose(together[1], total, rtol=1e-13, atol=1e-14)
    back, log_det_back = chain.inverse(y)
    assert torch.allclose(back, x, rtol=1e-12, atol=1e-12)
    assert torch.allclose(log_det_back, -total, rtol=1e-12, atol=1e-13)


def test_hooks_see_every_block_of_a_run() -> None:
    blocks = couplings(4, 3)
    seen = []
    blocks[1].register_forward_hook(lambda module, args, out: seen.append(out[0].shape))
    Chain(*blocks)(torch.randn(2, 4))
    assert seen == [torch.Size([2, 4])]


def test_condition_goes_only_where_it_is_taken() -> None:
    chain = Chain(DiagonalScaling(4), *couplings(4, 2, condition_features=3), DiagonalScaling(4))
    assert chain.condition_features == 3
    x, condition = torch.randn(5, 4), torch.randn(5, 3)
    y, _ = chain(x, condition)
    assert torch.allclose(chain.inverse(y, condition)[0], x)
    assert not torch.allclose(chain(x, condition + 1)[0], y)


def test_bounds_compose_and_follow_the_domain() -> None:
    chain = Chain(DiagonalScaling(2), *couplings(2, 2))
    with torch.no_grad():
        chain[0].log_scale.copy_(torch.tensor([1.0, -2.0]))
    assert chain[:1].bounds().forward == pytest.approx(torch.e)
    assert chain[:1].bounds().inverse == pytest.approx(torch.e**2)
    assert chain.bounds().forward == float("inf")
    local = chain.bounds(Domain(1.0, 1.0))
    larger = chain.bounds(Domain(2.0, 2.0))
    assert 1 <= local.forward < larger.forward < float("inf")
    x = torch.rand(200, 2) * 2 - 1
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda v: chain(v[None])[0][0], row) for row in x])
    assert torch.linalg.svdvals(jacobians).max() <= local.forward


def test_refuses_what_is_no_bijection(unchecked_types) -> None:
    with unchecked_types(), pytest.raises(ConfigError, match="Chain: expected block 1 to be a Bijection, got Linear"):
        Chain(Shift(0.0), torch.nn.Linear(2, 2))


def test_refuses_two_widths_of_condition() -> None:
    with pytest.raises(ConfigError, match=r"condition_features \[2, 3\]"):
        Chain(AffineCoupling(4, condition_features=2), AffineCoupling(4, condition_features=3))


def test_refuses_a_condition_nobody_takes() -> None:
    with pytest.raises(ShapeError, match="Chain: takes no condition"):
        Chain(Shift(0.0))(torch.randn(2, 2), torch.randn(2, 1))
