"""Density and sampling: the change of variables, conditions, validation, bits per dimension."""

import math

import pytest
import torch
from torch import Tensor

from invertible import (
    AffineCoupling,
    Bijection,
    Chain,
    ConditionalNormal,
    ConfigError,
    DiagonalScaling,
    DomainError,
    Flow,
    NotInvertibleError,
    ShapeError,
    SplineCoupling,
    StandardLogistic,
    StandardNormal,
)
from tests.tools import randomise

pytestmark = pytest.mark.usefixtures("float64")


class Overflow(Bijection):
    """y = 1e308 x: finite inputs, infinite outputs."""

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * 1e308 * 10, x.new_zeros(len(x))

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return y * 1e308 * 10, y.new_zeros(len(y))


def small_flow(**options: int) -> Flow:
    blocks = [randomise(AffineCoupling(2, hidden=(8, 8), flip=i % 2 == 1, **options), 0.2) for i in range(4)]
    return Flow(Chain(*blocks), StandardNormal((2,)))


def test_density_integrates_to_one() -> None:
    flow = small_flow()
    axis = torch.linspace(-9, 9, 601)
    grid = torch.cartesian_prod(axis, axis)
    total = flow.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-4)


def test_samples_have_the_density_they_say() -> None:
    flow = small_flow()
    x, log_prob = flow.sample_with_log_prob(500)
    assert torch.allclose(flow.log_prob(x), log_prob, rtol=1e-9, atol=1e-9)
    x = flow.sample(200_000, generator=torch.Generator().manual_seed(0))
    corner = x.median(0).values
    axis = (torch.arange(300) + 0.5) / 300
    density = flow.log_prob(corner + torch.cartesian_prod(axis, axis)).exp().mean()
    inside = ((x > corner) & (x < corner + 1)).all(1).double().mean()
    assert inside.item() > 0.02
    assert inside.item() == pytest.approx(density.item(), rel=0.05)


def test_sampling_is_reproducible_and_temperature_scales() -> None:
    flow = Flow(DiagonalScaling(3), StandardNormal((3,)))
    first = flow.sample(1000, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first, flow.sample(1000, generator=torch.Generator().manual_seed(3)))
    cold = flow.sample(1000, temperature=0.1, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(cold, 0.1 * first)
    assert flow.sample(4, temperature=0.0).eq(0).all()


def test_encode_and_decode_are_inverse() -> None:
    flow = small_flow()
    x = torch.randn(50, 2)
    assert torch.allclose(flow.decode(flow.encode(x)), x, atol=1e-12)


def test_condition_reaches_bijection_and_base() -> None:
    flow = Flow(
        Chain(randomise(AffineCoupling(2, condition_features=3))),
        randomise(ConditionalNormal((2,), 3)),
        classes=3,
    )
    x, labels = torch.randn(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    one_hot = torch.nn.functional.one_hot(labels, 3).double()
    assert torch.equal(flow.log_prob(x, labels), flow.log_prob(x, one_hot))
    assert not torch.allclose(flow.log_prob(x, labels), flow.log_prob(x, (labels + 1) % 3))
    assert flow.sample(5, torch.tensor([1])).shape == (5, 2)
    with pytest.raises(ShapeError, match=r"labels of shape \(batch,\) in 0 .. 2"):
        flow.log_prob(x, labels + 1)
    with pytest.raises(ShapeError, match="expected a condition"):
        flow.log_prob(x)


def test_conditional_base_follows_its_condition() -> None:
    base = randomise(ConditionalNormal((2,), 2))
    condition = torch.tensor([[1.0, 0.0]]).expand(200_000, 2)
    mean, log_deviation = base.parameters_of(condition[:1]).view(2, 2)
    z = base.sample(200_000, condition)
    assert torch.allclose(z.mean(0), mean, atol=0.02)
    assert torch.allclose(z.std(0), log_deviation.exp(), atol=0.02)
    expected = torch.distributions.Normal(mean, log_deviation.exp()).log_prob(z).sum(1)
    assert torch.allclose(base.log_prob(z, condition), expected)


def test_logistic_base_is_a_distribution() -> None:
    base = StandardLogistic((1,))
    z = torch.linspace(-60, 60, 100_001)[:, None]
    assert base.log_prob(z).exp().sum() * 120 / 100_000 == pytest.approx(1, abs=1e-6)
    samples = base.sample(200_000, generator=torch.Generator().manual_seed(0))
    assert samples.var() == pytest.approx(math.pi**2 / 3, rel=0.02)
    assert torch.isfinite(base.log_prob(torch.tensor([[1e9], [-1e9]]))).all()


def test_bits_per_dim_of_uniform_data_is_log2_of_the_levels() -> None:
    """A flow whose density is 1 on the unit cube: every level is equally likely."""

    class Uniform(StandardNormal):
        def log_prob(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
            return torch.where(((z >= 0) & (z < 1)).flatten(1).all(1), 0.0, -1e9)

    flow = Flow(Chain(), Uniform((5,)), levels=16)
    k = torch.randint(16, (7, 5), dtype=torch.uint8)
    assert torch.allclose(flow.bits_per_dim(k), torch.full((7,), 4.0))
    continuous = Flow(Chain(), StandardNormal((5,)))
    x = torch.randn(7, 5)
    assert torch.allclose(continuous.bits_per_dim(x), -continuous.log_prob(x) / (5 * math.log(2)))
    with pytest.raises(ShapeError, match="built for continuous data"):
        continuous.bits_per_dim(k)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_inputs_are_refused_and_the_check_can_be_switched_off(bad: float) -> None:
    flow = small_flow()
    x = torch.randn(4, 2)
    x[2, 1] = bad
    for method in (flow.log_prob, flow.encode, flow.decode):
        with pytest.raises(DomainError, match="in 1 of 4 samples, first in sample 2"):
            method(x)
    flow.validate = False
    assert torch.isfinite(flow.log_prob(x)).tolist() == [True, True, False, True]


def test_large_finite_inputs_pass_though_their_sum_overflows() -> None:
    flow = Flow(Chain(), StandardNormal((2,)))
    assert torch.isfinite(flow.encode(torch.full((4, 2), 1e308))).all()


def test_non_finite_results_are_an_error() -> None:
    flow = Flow(Overflow(), StandardNormal((2,)))
    with pytest.raises(NotInvertibleError, match="Flow.sample: 3 of 3 samples are not finite") as caught:
        flow.sample(3)
    assert caught.value.sample == 0
    with pytest.raises(NotInvertibleError, match="Flow.log_prob"):
        flow.log_prob(torch.ones(2, 2))
    flow.validate = False
    assert not torch.isfinite(flow.sample(3)).any()


def test_empty_batch_passes_through() -> None:
    for flow in (small_flow(), Flow(SplineCoupling(2), StandardNormal((2,)))):
        empty = torch.empty(0, 2)
        assert flow.log_prob(empty).shape == (0,)
        assert flow.bits_per_dim(empty).shape == (0,)
        assert flow.sample(0).shape == (0, 2)


def test_flow_works_with_func_transforms_without_validation() -> None:
    flow = small_flow()
    flow.validate = False
    x = torch.randn(3, 2)
    score = torch.func.vmap(torch.func.grad(lambda row: flow.log_prob(row[None])[0]))(x)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(flow.log_prob(x).sum(), x)
    assert torch.allclose(score, expected)


def test_float_input_keeps_its_dtype() -> None:
    flow = small_flow().float()
    x = torch.randn(4, 2, dtype=torch.float32)
    assert flow.log_prob(x).dtype == torch.float32
    assert flow.sample(2).dtype == torch.float32


def test_refuses_wrong_options() -> None:
    with pytest.raises(ConfigError, match="widths"):
        Flow(AffineCoupling(2, condition_features=3), ConditionalNormal((2,), 2))
    with pytest.raises(ConfigError, match="classes to equal condition_features"):
        Flow(AffineCoupling(2, condition_features=3), StandardNormal((2,)), classes=4)
    with pytest.raises(ConfigError, match="levels of at least 2"):
        Flow(Chain(), StandardNormal((2,)), levels=1)
    with pytest.raises(ConfigError, match="temperature >= 0"):
        small_flow().sample(2, temperature=-1.0)
