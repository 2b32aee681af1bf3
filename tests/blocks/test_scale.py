"""Scale functions keep within their declared range and slopes."""

import pytest
import torch

from invertible import ConfigError
from invertible.blocks.scale import SCALES, SoftClamp, TanhExp, scale_function

NAMES = sorted(SCALES)


@pytest.mark.parametrize("name", NAMES)
def test_log_is_that_of_the_scale(name: str) -> None:
    raw = torch.linspace(-15, 15, 3001, dtype=torch.float64)
    scale, log_scale = SCALES[name]()(raw)
    assert torch.allclose(scale.log(), log_scale, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_constants_hold_and_are_tight(name: str) -> None:
    function = SCALES[name]()
    raw = torch.linspace(-40, 40, 800_001, dtype=torch.float64, requires_grad=True)
    scale, _ = function(raw)
    assert scale.min() >= function.lower * (1 - 1e-12)
    assert scale.max() <= function.upper * (1 + 1e-12)
    (slope,) = torch.autograd.grad(scale.sum(), raw, retain_graph=True)
    (reciprocal,) = torch.autograd.grad((1 / scale).sum(), raw)
    for measured, declared in ((slope, function.slope), (reciprocal, function.reciprocal_slope)):
        largest = float(measured.abs().max())
        assert largest <= declared * (1 + 1e-9)
        if declared < float("inf"):
            assert largest >= declared * 0.999


def test_ranges_are_settable() -> None:
    raw = torch.tensor([-1e9, 0.0, 1e9], dtype=torch.float64)
    assert TanhExp(5.0)(raw)[0].tolist() == pytest.approx([0.2, 1, 5])
    assert SoftClamp(1.0)(raw)[0].tolist() == pytest.approx([torch.e**-1, 1, torch.e])
    with pytest.raises(ConfigError, match="maximum above 1"):
        TanhExp(1.0)
    with pytest.raises(ConfigError, match="limit"):
        SoftClamp(-1.0)


def test_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match="AffineCoupling: expected scale to be one of 'exp'.*got 'tanh'"):
        scale_function("tanh", "AffineCoupling")
