"""What holds for every model."""

import math

import pytest
import torch

from invertible import ConfigError, models, resampled
from tests.models.examples import MODELS, data_for
from tests.tools import randomise

NAMES = sorted(MODELS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 1e-3), (torch.float64, 1e-10)], ids=["float32", "float64"]
)
def test_worst_round_trip_at_initialisation(name: str, dtype: torch.dtype, limit: float) -> None:
    flow = MODELS[name]().to(dtype)
    x, condition = data_for(flow, dtype, 64)
    given = flow._given(flow.bijection, flow._condition(condition))
    z, log_det = flow.bijection(x, given)
    back, log_det_back = flow.bijection.inverse(z, given)
    worst = ((back - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).max()
    assert worst < limit
    assert (log_det + log_det_back).abs().max() < limit * x[0].numel()


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_is_the_change_of_variables(name: str) -> None:
    flow = randomise(MODELS[name]().double(), 0.1)
    x, condition = data_for(flow, torch.float64)
    flow.log_prob(x, condition)
    flow.eval()
    row, label = x[:1], None if condition is None else condition[:1]
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.encode(v, label).flatten(), row)
    expected = torch.linalg.slogdet(jacobian.reshape(x[0].numel(), -1))[1]
    z = flow.encode(row, label)
    base = flow.base.log_prob(z, flow._given(flow.base, flow._condition(label)))
    assert flow.log_prob(row, label).item() == pytest.approx((base + expected).item(), abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_samples_look_like_data(name: str) -> None:
    flow = MODELS[name]()
    x, condition = data_for(flow, torch.get_default_dtype())
    flow.log_prob(x, condition)
    samples = flow.sample(len(x), condition, temperature=0.7, generator=torch.Generator().manual_seed(0))
    assert samples.shape == x.shape
    assert torch.isfinite(samples).all()


@pytest.mark.parametrize("name", NAMES)
def test_training_step_lowers_the_loss(name: str) -> None:
    flow = MODELS[name]()
    x, condition = data_for(flow, torch.get_default_dtype(), 64)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        loss = -flow.log_prob(x, condition).mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in flow.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_config_rebuilds_the_model(name: str) -> None:
    flow = MODELS[name]()
    again = models.build(flow.config["model"], flow.config["arguments"])
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in flow.state_dict().items()}
    assert again.config == flow.config


def test_multiscale_keeps_all_latents_and_resamples_only_when_asked() -> None:
    flow = randomise(models.glow((1, 8, 8), levels=3, depth=1, hidden=8), 0.05)
    x = torch.rand(4, 1, 8, 8)
    z = flow.encode(x)
    assert z.shape == x.shape
    assert torch.allclose(flow.decode(z), x, atol=1e-6)
    with resampled(flow, temperature=0.7, generator=torch.Generator().manual_seed(0)):
        other = flow.decode(z)
    assert not torch.allclose(other, x, atol=1e-2)
    assert torch.allclose(flow.decode(z), x, atol=1e-6)


def test_glow_has_the_parameters_of_its_description() -> None:
    """Per step: actnorm 2C, convolution C^2, conditioner; PLU keeps C^2 numbers in L, U and log s together."""
    channels, hidden = 12, 16
    flow = models.glow((3, 8, 8), levels=1, depth=2, hidden=hidden)
    half = channels // 2
    conditioner = 9 * half * hidden + hidden + hidden * hidden + hidden + 9 * hidden * 2 * half + 2 * half
    trainable = sum(p.numel() for p in flow.parameters())
    stored = 2 * (2 * channels + conditioner)
    plu = trainable - stored
    assert 2 * channels**2 <= plu <= 2 * (2 * channels**2 + channels)


def test_realnvp_has_the_papers_couplings() -> None:
    flow = models.realnvp((1, 8, 8), levels=2, hidden=(4,), residual_blocks=1)
    names = [type(m).__name__ for m in flow.modules()]
    assert names.count("AffineCoupling") == 3 + 3 + 4
    assert names.count("Checkerboard") == 3 + 4
    assert names.count("FactorOut") == 1


def test_class_conditional_glow_tells_classes_apart() -> None:
    flow = models.glow((1, 4, 4), levels=1, depth=2, hidden=16, classes=2, grey_levels=None)
    labels = torch.arange(64) % 2
    x = 0.3 + 0.4 * labels.view(-1, 1, 1, 1) + 0.05 * torch.randn(64, 1, 4, 4)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    for _ in range(60):
        loss = flow.bits_per_dim(x, labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right, wrong = flow.log_prob(x, labels), flow.log_prob(x, 1 - labels)
    assert (right > wrong).float().mean() > 0.95
    assert flow.sample(32, torch.tensor([1])).mean() > flow.sample(32, torch.tensor([0])).mean() + 0.2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.glow((3, 30, 32)), "models.glow: expected height and width divisible by 8"),
        (lambda: models.glow((32, 32)), "models.glow: expected shape"),
        (lambda: models.glow((3, 8, 8), depth=0), "expected depth to be an integer of at least 1, got 0"),
        (
            lambda: models.glow((1, 8, 8), levels=1, coupling="linear"),
            "expected coupling to be one of 'additive', 'affine', 'spline'",
        ),
        (lambda: models.glow((1, 8, 8), levels=1, scale="tanh"), "expected scale to be one of"),
        (lambda: models.glow((1, 8, 8), levels=1, permutation="swap"), "expected permutation to be one of"),
        (
            lambda: models.glow((1, 8, 8), levels=1, classes=2, condition_features=3),
            "classes or condition_features",
        ),
        (lambda: models.realnvp(0), "expected shape to be an integer of at least 1, got 0"),
        (lambda: models.nice(4, base="cauchy"), "expected base to be one of 'normal', 'logistic'"),
        (lambda: models.build("vae", {}), "expected name to be one of"),
        (
            lambda: models.build("nice", {"depth": 3}),
            "missing a required argument: 'shape'|unexpected keyword argument",
        ),
    ],
)
def test_wrong_arguments_are_named(build: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_bits_per_dim_starts_near_uniform() -> None:
    """At the start Glow is data-normalising only; the bound must be a sane number of bits."""
    flow = models.glow((1, 8, 8), levels=2, depth=2, hidden=8, grey_levels=256)
    k = torch.randint(256, (64, 1, 8, 8))
    bits = flow.bits_per_dim(k, generator=torch.Generator().manual_seed(0))
    assert math.isclose(bits.mean().item(), 8, abs_tol=1.0)
