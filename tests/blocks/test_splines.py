"""Splines: any finite input, both directions, finite gradients; bounds of the slope."""

import math

import pytest
import torch

from invertible import ConfigError, Domain, SplineCoupling
from invertible.blocks.splines import SplineMap

DEFAULT = SplineMap()


def edge_inputs(bound: float, dtype: torch.dtype) -> torch.Tensor:
    b = torch.tensor(bound, dtype=dtype)
    near = [b, torch.nextafter(b, b * 0), torch.nextafter(b, b * 2), b * 0, b * 1e6]
    return torch.stack([*near, *(-value for value in near)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bound", [1.0, 5.0, 32.0, 1000.0])
@pytest.mark.parametrize("strength", [0.0, 1.0, 20.0, 1000.0])
def test_edges_and_tails_neither_crash_nor_give_nan(dtype: torch.dtype, bound: float, strength: float) -> None:
    spline = SplineMap(bound=bound)
    x = edge_inputs(bound, dtype)[:, None].requires_grad_()
    parameters = (strength * torch.randn(len(x), spline.count, dtype=dtype)).requires_grad_()
    for direction in (spline.forward, spline.inverse):
        y, log_slope = direction(x, parameters)
        outside = x.abs() >= bound
        assert torch.equal(y[outside], x[outside])
        assert log_slope[outside].eq(0).all()
        gradients = torch.autograd.grad(y.sum() + log_slope.sum(), (x, parameters))
        assert all(torch.isfinite(value).all() for value in (y, log_slope, *gradients))


@pytest.mark.parametrize("bins", [2, 8, 64])
def test_knots_map_to_knots_and_back(bins: int) -> None:
    spline = SplineMap(bins=bins, min_bin=0.2 / bins)
    parameters = torch.randn(500, spline.count, dtype=torch.float64)
    shares = parameters[:, : 2 * bins].unflatten(1, (2, bins)).softmax(2) * (1 - 0.2) + 0.2 / bins
    knots = (shares * 10).cumsum(2)[..., :-1] - 5
    for index in range(bins - 1):
        y, _ = spline.forward(knots[:, :1, index], parameters)
        assert torch.allclose(y, knots[:, 1:, index], atol=1e-12)
        x, _ = spline.inverse(knots[:, 1:, index], parameters)
        assert torch.allclose(x, knots[:, :1, index], atol=1e-9)


@pytest.mark.parametrize("strength", [1.0, 20.0])
def test_worst_round_trip_in_float32_with_strong_parameters(strength: float) -> None:
    x = 10 * torch.rand(200_000, 1) - 5
    parameters = strength * torch.randn(len(x), DEFAULT.count)
    y, log_slope = DEFAULT.forward(x, parameters)
    back, log_slope_back = DEFAULT.inverse(y, parameters)
    assert (back - x).abs().max() < 5e-3
    assert (log_slope + log_slope_back).abs().max() < 5e-2


def test_slopes_stay_within_the_bounds() -> None:
    x = 12 * torch.rand(200_000, 1, dtype=torch.float64) - 6
    bounds = DEFAULT.bounds(0.0, Domain(math.inf, math.inf), None)
    for strength in (0.1, 1.0, 10.0):
        _, log_slope = DEFAULT.forward(x, strength * torch.randn(len(x), DEFAULT.count, dtype=torch.float64))
        assert log_slope.max() <= math.log(bounds.forward)
        assert -log_slope.min() <= math.log(bounds.inverse)


def test_zero_parameters_give_the_identity() -> None:
    x = torch.linspace(-7, 7, 101)[:, None]
    y, log_slope = DEFAULT.forward(x, torch.zeros(101, DEFAULT.count))
    assert torch.allclose(y, x, atol=1e-6)
    assert log_slope.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 1}, "bins of at least 2"),
        ({"bound": 0.0}, "positive bound"),
        ({"min_bin": 0.2}, r"min_bin in \(0, 1/bins"),
        ({"max_derivative": 1.0}, "max_derivative above 1"),
    ],
)
def test_refuses_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SplineCoupling(4, **options)
