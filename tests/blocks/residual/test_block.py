"""The residual block: laws, inverses, gradients, memory, certificates."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from invertible import Chain, set_memory
from invertible.ball import Ball
from invertible.bijection import Domain
from invertible.blocks.lipschitz import (
    LipschitzConvNet,
    LipschitzDenseConvNet,
    LipschitzDenseNet,
    LipschitzMLP,
)
from invertible.blocks.residual import ExactLogDet, PowerSeries, ResidualBlock, RussianRoulette, log_det_statistics
from invertible.errors import ConfigError, ConvergenceError, DomainError, ShapeError
from invertible.solvers.second_derivatives import SecondDerivativeError
from invertible.testing import check_bijection
from tests.tools import randomise


def volume_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.ELU(), nn.Conv3d(3, 2, 1))


BLOCKS = {
    "vectors": (lambda: LipschitzMLP(5, (8, 8)), (5,), None),
    "one-feature": (lambda: LipschitzMLP(1, (8,), activation="cube"), (1,), None),
    "images": (lambda: LipschitzConvNet(2, (6, 6), activation="elu", preactivation=True), (2, 4, 3), None),
    "volumes": (volume_net, (2, 2, 3, 2), None),
    "conditional": (lambda: LipschitzMLP(4, (8,), condition_features=3), (4,), (3,)),
    "conditional-images": (lambda: LipschitzConvNet(2, (6, 6), condition_features=3), (2, 4, 4), (3, 4, 4)),
    "norm-1": (lambda: LipschitzMLP(5, (8, 8), norm=1), (5,), None),
    "norm-infinity": (lambda: LipschitzConvNet(2, (6, 6), norm=math.inf), (2, 4, 4), None),
    "dense": (lambda: LipschitzDenseNet(5, (6, 6)), (5,), None),
    "dense-images": (lambda: LipschitzDenseConvNet(2, (4, 4)), (2, 4, 4), None),
    "maxmin": (lambda: LipschitzMLP(4, (8, 8), activation="maxmin"), (4,), None),
    "ordinary-net": (lambda: nn.Sequential(nn.Linear(4, 9), nn.Tanh(), nn.Linear(9, 4)), (4,), None),
}


def make(name: str, samples: int = 6, **options) -> tuple[ResidualBlock, torch.Tensor, torch.Tensor | None]:
    build, shape, condition = BLOCKS[name]
    block = randomise(ResidualBlock(build(), **options)).double()
    x = torch.randn(samples, *shape, dtype=torch.float64)
    return block, x, None if condition is None else torch.randn(samples, *condition, dtype=torch.float64)


# The others are in the table of all blocks.
@pytest.mark.parametrize("name", ["one-feature", "volumes", "norm-1", "norm-infinity", "dense-images", "maxmin"])
def test_laws(name: str) -> None:
    block, x, condition = make(name, log_det="exact")
    check_bijection(block, x, condition)


@pytest.mark.parametrize("name", ["vectors", "images", "dense"])
@torch.no_grad()
def test_estimates_of_evaluation_are_the_same_every_time_and_row_by_row(name: str) -> None:
    block, x, condition = make(name, eval_log_det="certified-series")
    y, log_det = block.eval()(x, condition)
    back, log_det_back = block.inverse(y, condition)
    assert torch.allclose(back, x, atol=1e-12)
    assert torch.allclose(log_det, -log_det_back, atol=1e-9)
    order = torch.tensor([3, 1, 0])
    assert torch.allclose(block(x[order])[1], log_det[order], atol=1e-12)
    assert torch.equal(block(x)[1], log_det)


@pytest.mark.parametrize("name", list(BLOCKS))
@torch.no_grad()
def test_round_trip_far_from_the_data_within_the_error_bound(name: str) -> None:
    block, x, condition = make(name, samples=12, lipschitz=0.97)
    for factor in (1.0, 10.0, 1e4):
        y, _ = block(factor * x, condition)
        back, _ = block.inverse(y, condition)
        error = (back - factor * x).flatten(1).norm(dim=1)
        assert float((error / (factor * x.flatten(1).norm(dim=1))).max()) < 1e-12
        found = block.last_inverse
        assert found is not None
        assert bool(found.converged.all())
        if block.norm == 2:
            # Forward rounds too.
            assert bool((error <= 2 * found.error_bound + 1e-14 * factor).all())


@pytest.mark.parametrize("name", ["vectors", "conditional", "images"])
def test_gradients_of_the_inverse_are_implicit(name: str) -> None:
    block, x, condition = make(name, log_det="exact")
    y = block(x, condition)[0].detach().requires_grad_()
    back, log_det = block.inverse(y, condition)
    weights = torch.randn_like(back)
    found = torch.autograd.grad((weights * back).sum() + log_det.sum(), [y, *block.parameters()], allow_unused=True)
    step = 1e-6
    v = torch.randn_like(y)

    @torch.no_grad()
    def value(h: float) -> float:
        a, b = block.inverse(y + h * v, condition)
        return float((weights * a).sum() + b.sum())

    expected = (value(step) - value(-step)) / (2 * step)
    assert math.isclose(float((found[0] * v).sum()), expected, rel_tol=1e-6, abs_tol=1e-7)
    assert all(each is not None and bool(each.isfinite().all()) for each in found)


@pytest.mark.parametrize("memory", ["reversible", "checkpoint", "recursive"])
@pytest.mark.parametrize("log_det", ["geometric", "poisson", "exact", "auto"])
@pytest.mark.parametrize("name", ["vectors", "conditional"])
def test_memory_strategies_replay_the_same_estimates(name: str, log_det: str, memory: str) -> None:
    blocks = [make(name, log_det=log_det)[0] for _ in range(3)]
    _, x, condition = make(name)
    results = []
    for strategy in ("store", memory):
        chain = set_memory(copy.deepcopy(Chain(*blocks)), strategy)
        torch.manual_seed(5)
        leaf = x.clone().requires_grad_()
        z, total = chain(leaf, condition)
        (z.square().sum(1) / 2 - torch.linspace(0.5, 2, len(x)) * total).sum().backward()
        results.append([total.detach(), leaf.grad, *(p.grad for p in chain.parameters())])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


def test_forward_and_inverse_take_the_same_probes_from_the_same_state() -> None:
    block, x, _ = make("vectors", log_det="geometric")
    torch.manual_seed(1)
    y, log_det = block(x)
    torch.manual_seed(1)
    _, back = block.inverse(y.detach())
    assert torch.allclose(log_det, -back, atol=1e-10)


@pytest.mark.parametrize("name", ["vectors", "images", "norm-1", "norm-infinity", "dense"])
@torch.no_grad()
def test_bounds_hold_for_the_dense_jacobian(name: str) -> None:
    block, x, _ = make(name, samples=32)
    bounds = block.bounds(Ball(5.0, 5.0, dimensions=x[0].numel()))
    jacobian = torch.eye(x[0].numel()) + ExactLogDet().jacobian(block.residual_map(), 3 * x)[1]
    values = torch.linalg.svdvals(jacobian)
    assert float(values.max()) <= bounds.forward
    assert 1 / float(values.min()) <= bounds.inverse
    assert math.isfinite(bounds.inverse)


@pytest.mark.parametrize("name", ["vectors", "images", "norm-infinity", "ordinary-net"])
@torch.no_grad()
def test_images_of_boxes_and_balls(name: str) -> None:
    block, x, _ = make(name, samples=64)
    inside = 3 * x / x.abs().amax()
    for domain in (Domain(3.0, 3.0), Ball(3.0, 3.0, 9.0, 9.0, x[0].numel())):
        found = block.image(domain)
        assert float(block(inside)[0].abs().max()) <= found.y
        assert float(block.inverse(inside)[0].abs().max()) <= found.x
    assert math.isfinite(found.x)
    assert math.isfinite(found.y)


def test_a_trained_model_keeps_its_certificate() -> None:
    torch.manual_seed(0)
    blocks = [ResidualBlock(LipschitzMLP(2, (32, 32), lipschitz=0.9, preactivation=i > 0)) for i in range(4)]
    chain = Chain(*blocks)
    optimizer = torch.optim.Adam(chain.parameters(), 1e-2)
    angle = torch.rand(256) * 6.28
    data = torch.stack((2 * angle.cos(), angle.sin()), 1) + 0.05 * torch.randn(256, 2)
    losses = []
    for _ in range(60):
        z, log_det = chain(data)
        loss = (z.square().sum(1) / 2 - log_det).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1
    largest = 0.0
    for block in chain.double().eval().requires_grad_(False):
        assert isinstance(block, ResidualBlock)
        points = 3 * torch.randn(500, 2, dtype=torch.float64)
        values = torch.linalg.svdvals(ExactLogDet().jacobian(block.residual_map(), points)[1])
        bound = block.bounds().forward - 1
        assert float(values.max()) <= bound <= block.lipschitz * (1 + 1e-12)
        largest = max(largest, float(values.max()))
    # Not vacuous: training has used most of what is allowed somewhere.
    assert largest > 0.3


def test_statistics_tell_bias_and_deviation() -> None:
    block, x, _ = make("vectors")
    before = torch.get_rng_state()
    found = log_det_statistics(block, x, 150, log_det=RussianRoulette("poisson"), generator=3)
    assert torch.equal(before, torch.get_rng_state())
    assert found.exact is not None
    assert bool(((found.mean - found.exact).abs() < 5 * found.standard_error).all())
    assert found.truncation == 0
    again = log_det_statistics(block, x, 150, log_det=RussianRoulette("poisson"), generator=3)
    assert torch.equal(found.mean, again.mean)
    more = log_det_statistics(block, x, 150, log_det=RussianRoulette("poisson", probes=16), generator=3)
    assert float(more.deviation.mean()) < float(found.deviation.mean())
    biased = log_det_statistics(block, x, 150, log_det=PowerSeries(1), generator=torch.Generator().manual_seed(2))
    assert bool(((biased.mean - found.exact).abs() <= biased.truncation + 5 * biased.standard_error).all())
    assert biased.truncation > 0


@pytest.mark.parametrize("name", ["vectors", "dense"])
def test_second_derivatives_are_right_or_refused(name: str) -> None:
    block, x, _ = make(name, log_det="power-series", gradient="neumann")
    leaf = x.clone().requires_grad_()
    y, log_det = block(leaf)
    (slope,) = torch.autograd.grad(log_det.sum(), leaf, create_graph=True)
    with pytest.raises(SecondDerivativeError, match="autograd"):
        slope.square().sum().backward()
    # Of y itself they are to be had.
    (slope,) = torch.autograd.grad(y.square().sum(), leaf, create_graph=True)
    slope.square().sum().backward()
    block, _, _ = make(name, log_det="power-series", gradient="autograd")

    def gradient(at: torch.Tensor, *, graph: bool) -> torch.Tensor:
        torch.manual_seed(0)
        return torch.autograd.grad(block(at)[1].sum(), at, create_graph=graph)[0]

    v = torch.randn_like(x)
    (found,) = torch.autograd.grad((gradient(leaf, graph=True) * v).sum(), leaf)
    step = 1e-5
    plus, minus = (gradient((x + h * v).requires_grad_(), graph=False) for h in (step, -step))
    expected = (plus - minus) / (2 * step)
    assert torch.allclose(found, expected, atol=1e-6)


def test_copies_and_states_hold_no_report() -> None:
    block, x, _ = make("vectors", log_det="exact")
    y, log_det = block(x)
    block.inverse(y.detach())
    assert block.last_inverse is not None
    assert not any("last_inverse" in name for name in block.state_dict())
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert other.last_inverse is None
        assert torch.equal(other(x)[0], y)
        assert torch.equal(other(x)[1], log_det)


def test_an_inverse_that_does_not_arrive_says_so() -> None:
    block, x, _ = make("vectors", max_evaluations=2, tolerance=1e-14)
    y, _ = block(3 * x)
    with pytest.raises(ConvergenceError, match=r"ResidualBlock.*evaluations"):
        block.inverse(y.detach())
    with pytest.raises(DomainError, match="ResidualBlock"):
        block.solve(torch.full_like(x, math.nan))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_inference_mode_and_half_precision(mode: str) -> None:
    block, x, _ = make("vectors", eval_log_det="certified-series")
    block.train(mode == "train")
    with torch.inference_mode():
        y, log_det = block(x.clone())
        back, _ = block.inverse(y)
    assert torch.allclose(back, x, atol=1e-10)
    assert log_det.shape == (6,)
    y16, log_det16 = block.bfloat16()(x.bfloat16())
    assert (y16.dtype, log_det16.dtype) == (torch.bfloat16, torch.float32)
    assert block.inverse(y16.detach())[0].dtype == torch.bfloat16


def test_the_choice_of_auto() -> None:
    for features, training, evaluation in ((2, "ExactLogDet", "ExactLogDet"), (8, "RussianRoulette", "ExactLogDet")):
        block = ResidualBlock(LipschitzMLP(features, (4,)))
        x = torch.zeros(1, features)
        assert type(block.training_log_det(x)).__name__ == training
        assert type(block.eval().active_log_det(x)).__name__ == evaluation
    large = ResidualBlock(LipschitzMLP(70, (4,))).eval()
    assert type(large.active_log_det(torch.zeros(1, 70))).__name__ == "CertifiedSeries"


@pytest.mark.parametrize(
    ("make_block", "match"),
    [
        (lambda: ResidualBlock(LipschitzMLP(2, (4,), lipschitz=1.5)), r"lipschitz in \(0, 1\)"),
        (lambda: ResidualBlock(volume_net(), 1.0), r"lipschitz in \(0, 1\)"),
        (lambda: ResidualBlock(LipschitzMLP(2, (4,)), log_det="trace"), "log_det"),
        (lambda: ResidualBlock(LipschitzMLP(2, (4,)), gradient="none"), "gradient"),
        (lambda: ResidualBlock(LipschitzMLP(2, (4,)), max_evaluations=0), "max_evaluations"),
    ],
)
def test_wrong_arguments_are_named(make_block, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make_block()


def test_wrong_inputs_are_named() -> None:
    block = ResidualBlock(LipschitzMLP(3, (4,), condition_features=2))
    with pytest.raises(ShapeError, match="condition"):
        block(torch.randn(2, 3))
    with pytest.raises(ShapeError, match="expected x"):
        block(torch.randn(2, 4), torch.randn(2, 2))
    with pytest.raises(ShapeError, match="dtype"):
        block(torch.randn(2, 3).double(), torch.randn(2, 2))
