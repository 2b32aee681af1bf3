"""Log-determinants of residual blocks: exact, truncated, unbiased, and the same every time."""

import math
from dataclasses import replace

import pytest
import torch

from invertible.blocks.residual.certified_series import CertifiedSeries
from invertible.blocks.residual.exact import ExactLogDet
from invertible.blocks.residual.log_det import LogDet
from invertible.blocks.residual.power_series import PowerSeries, terms_needed, truncation_error
from invertible.blocks.residual.roulette import RussianRoulette
from invertible.blocks.residual.series import weighted_series
from invertible.errors import ConfigError
from tests.blocks.residual.contractions import contraction, gradients


def dense_log_det(g, x):
    """By autograd's Jacobian, one sample at a time."""
    values = []
    for i in range(len(x)):
        row = contraction_of_row(g, i)
        jacobian = torch.autograd.functional.jacobian(row, x[i : i + 1], create_graph=True)
        size = x[i].numel()
        values.append(torch.logdet(torch.eye(size, dtype=x.dtype) + jacobian.reshape(size, size)))
    return torch.stack(values)


def contraction_of_row(g, i):
    condition = None if g.condition is None else g.condition[i : i + 1]
    return lambda row: g.net(row, condition)


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (4,), (7,), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("chunk", [1, 40, 2**20])
def test_exact_is_the_dense_determinant_with_all_gradients(shape: tuple[int, ...], chunk: int) -> None:
    condition = torch.randn(5, 2, dtype=torch.float64, requires_grad=True) if len(shape) == 1 else None
    g = contraction(shape[0], 0.95, condition)
    x = torch.randn(5, *shape, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(5, dtype=torch.float64)
    value, log_det = ExactLogDet(chunk).estimate(g, x)
    expected = dense_log_det(g, x)
    assert torch.allclose(value, g(x), atol=1e-14)
    assert torch.allclose(log_det, expected, atol=1e-12)
    for a, b in zip(
        gradients(g, (weights * log_det).sum(), x), gradients(g, (weights * expected).sum(), x), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
@pytest.mark.parametrize(
    "estimate",
    [
        RussianRoulette("geometric", 0.5),
        RussianRoulette("geometric", 0.3, exact_terms=1),
        RussianRoulette("poisson", 2.0),
        RussianRoulette("poisson", 4.0, exact_terms=5, probes=3),
    ],
    ids=str,
)
@torch.no_grad()
def test_roulette_is_unbiased(estimate: RussianRoulette, probe: str) -> None:
    estimate = RussianRoulette(estimate.distribution, estimate.parameter, estimate.exact_terms, estimate.probes, probe)
    g = contraction(5, 0.7)
    # One sample many times, so that a call gives many probes; the number of terms is one a call.
    x = torch.randn(1, 5, dtype=torch.float64).expand(128, 5)
    calls = torch.stack([estimate.estimate(g, x)[1].mean() for _ in range(200)])
    exact = ExactLogDet().estimate(g, x[:1])[1]
    error, deviation = (calls.mean() - exact).abs(), calls.std() / math.sqrt(len(calls))
    assert float(error) < 4 * float(deviation)
    # Sharp enough to tell a missing term from noise.
    assert float(deviation) < 0.03


@torch.no_grad()
def test_the_power_series_misses_by_no_more_than_is_certified() -> None:
    g = contraction(6, 0.8)
    x = torch.randn(4, 6, dtype=torch.float64)
    exact = ExactLogDet().estimate(g, x)[1]
    for terms in (1, 3, 8):
        series = PowerSeries(terms)
        found = series.estimate(g, x.repeat(3000, 1))[1].view(3000, 4)
        slack = 4 * found.std(0) / math.sqrt(len(found))
        assert bool(((found.mean(0) - exact).abs() <= series.truncation(0.8, 6) + slack).all())
        assert series.truncation(0.8, 6) == truncation_error(0.8, 6, terms)


def test_truncation_bound_holds_where_it_is_attained() -> None:
    # J = -L I: every term has the sign of the rest, and log det = D log(1 - L).
    lipschitz, dimensions = 0.9, 3
    for terms in (1, 10, 50):
        partial = -dimensions * sum(lipschitz**k / k for k in range(1, terms + 1))
        missed = partial - dimensions * math.log1p(-lipschitz)
        assert 0.1 * truncation_error(lipschitz, dimensions, terms) < missed
        assert missed <= truncation_error(lipschitz, dimensions, terms)
    needed = terms_needed(lipschitz, dimensions, 1e-6)
    assert truncation_error(lipschitz, dimensions, needed) <= 1e-6 < truncation_error(lipschitz, dimensions, needed - 1)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@torch.no_grad()
def test_certified_series_is_the_long_series_of_its_probes_within_the_tolerance(norm: float) -> None:
    g = contraction(6, 0.6)
    # In the other norms the constant is sqrt(D) times larger at most; here it is measured on the safe side.
    g = replace(g, norm=norm, lipschitz=0.6 if norm == 2 else 0.97)
    x = torch.randn(4, 6, dtype=torch.float64)
    loose, tight = (CertifiedSeries(tolerance, probes=2).estimate(g, x)[1] for tolerance in (1e-3, 1e-13))
    assert 0 < float((loose - tight).abs().max()) <= 1e-3
    assert torch.equal(loose, CertifiedSeries(1e-3, probes=2).estimate(g, x)[1])
    # A sample's value is its own.
    assert torch.allclose(CertifiedSeries(1e-3, probes=2).estimate(g, x[2:])[1], loose[2:], atol=1e-14)


@torch.no_grad()
def test_many_fixed_probes_approach_the_exact_value() -> None:
    g = contraction(6, 0.6)
    x = torch.randn(4, 6, dtype=torch.float64)
    exact = ExactLogDet().estimate(g, x)[1]
    few, many = (CertifiedSeries(1e-8, probes=p).estimate(g, x)[1] - exact for p in (4, 256))
    assert float(many.abs().max()) < 0.06
    assert float(many.norm()) < float(few.norm())


@pytest.mark.parametrize("series", [PowerSeries(200), RussianRoulette("poisson", 2.0, exact_terms=200)], ids=str)
def test_neumann_gradient_of_a_long_series_is_the_exact_gradient(series: LogDet) -> None:
    # Unit vectors as probes, one a row, make the trace of the series exact: sum_i e_i^T A e_i.
    g = contraction(4, 0.9)
    x = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    units = torch.eye(4, dtype=torch.float64)
    weights = series.weights(3) if isinstance(series, RussianRoulette) else [1.0] * 200
    for gradient in ("neumann", "autograd"):
        # Four probes: four times the mean of their estimates is the trace of the series.
        found = 4 * weighted_series(g, x, units[:, None], weights, gradient)[1].sum()
        exact = ExactLogDet().estimate(g, x)[1].sum()
        assert torch.allclose(found, exact, atol=1e-8)
        for a, b in zip(gradients(g, found, x), gradients(g, exact, x), strict=True):
            assert torch.allclose(a, b, atol=1e-7)


def test_neumann_gradients_have_the_expectation_of_autograds_and_of_the_exact_ones() -> None:
    condition = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    g = contraction(3, 0.7, condition)
    x = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    # Samples that count differently, with both signs.
    weights = torch.tensor([2.0, -1.0, 0.3], dtype=torch.float64)
    exact = torch.cat(gradients(g, (weights * ExactLogDet().estimate(g, x)[1]).sum(), x))
    for gradient in ("neumann", "autograd"):
        draws = []
        for _ in range(150):
            log_det = RussianRoulette("geometric", probes=8).estimate(g, x, gradient=gradient)[1]
            draws.append(torch.cat(gradients(g, (weights * log_det).sum(), x)))
        found = torch.stack(draws)
        slack = 4.5 * found.std(0) / math.sqrt(len(found))
        assert bool(((found.mean(0) - exact).abs() <= slack + 1e-12).all()), gradient


def test_neumann_gradients_of_one_sample_do_not_depend_on_what_the_others_weigh() -> None:
    g = contraction(4, 0.8)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    rows = []
    for weights in ([1.0, 0.0, 0.0], [1.0, 5.0, -7.0]):
        torch.manual_seed(0)
        log_det = RussianRoulette("poisson").estimate(g, x)[1]
        rows.append(torch.autograd.grad((torch.tensor(weights, dtype=torch.float64) * log_det).sum(), x)[0])
    assert torch.allclose(rows[0][0], rows[1][0], atol=1e-14)
    assert float(rows[0][1:].abs().max()) == 0


def test_values_are_the_same_with_and_without_grad() -> None:
    g = contraction(4, 0.8)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    for estimate in (RussianRoulette("geometric", probes=2), PowerSeries(), ExactLogDet()):
        torch.manual_seed(1)
        with_grad = estimate.estimate(g, x, gradient="neumann")
        torch.manual_seed(1)
        with torch.no_grad():
            without = estimate.estimate(g, x, gradient="neumann")
        torch.manual_seed(1)
        through = estimate.estimate(g, x, gradient="autograd")
        for a, b, c in zip(with_grad, without, through, strict=True):
            assert torch.allclose(a, b, atol=1e-14)
            assert torch.allclose(a, c, atol=1e-14)
            assert not b.requires_grad


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: RussianRoulette("uniform"), "distribution"),
        (lambda: RussianRoulette("geometric", 1.0), r"\(0, 1\)"),
        (lambda: RussianRoulette("poisson", 0.0), "parameter"),
        (lambda: RussianRoulette(exact_terms=0), "exact_terms"),
        (lambda: PowerSeries(0), "terms"),
        (lambda: PowerSeries(probe="cauchy"), "probe"),
        (lambda: CertifiedSeries(0.0), "tolerance"),
        (lambda: ExactLogDet(0), "chunk"),
        (lambda: truncation_error(1.0, 2, 3), "lipschitz"),
    ],
)
def test_wrong_arguments_are_named(make, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()
