"""The logit layer: its domain, ends included, and its declared slopes."""

import pytest
import torch

from invertible import ConfigError, Domain, DomainError, Logit


@pytest.mark.parametrize("alpha", [0.05, 1e-3, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_whole_unit_interval_goes_there_and_back(alpha: float, dtype: torch.dtype) -> None:
    block = Logit(alpha)
    x = torch.linspace(0, 1, 10_001, dtype=dtype)[:, None]
    y, log_det = block(x)
    back, log_det_back = block.inverse(y)
    assert torch.isfinite(y).all()
    assert (back - x).abs().max() < 8 * torch.finfo(dtype).eps
    assert (log_det + log_det_back).abs().max() < 20 * torch.finfo(dtype).eps / alpha


def test_slopes_are_the_declared_ones() -> None:
    for alpha in (0.05, 1e-6):
        block = Logit(alpha)
        x = torch.linspace(0, 1, 100_001, dtype=torch.float64)[:, None]
        _, log_slope = block(x)
        bounds = block.bounds()
        assert log_slope.exp().max().item() == pytest.approx(bounds.forward, rel=1e-9)
        assert (-log_slope).exp().max().item() == pytest.approx(bounds.inverse, rel=1e-6)
    assert Logit(0.05).bounds(Domain(2.0, 1.0)).forward == float("inf")


def test_far_latents_stay_finite() -> None:
    x, log_det = Logit().inverse(torch.tensor([[-1e4], [1e4]]))
    assert torch.isfinite(x).all()
    assert torch.isfinite(log_det).all()


def test_refuses_what_lies_outside() -> None:
    with pytest.raises(DomainError, match=r"Logit: expected x in \(-0.05556, 1.056\), got values in \[0, 2\]"):
        Logit()(torch.tensor([[0.0], [2.0]]))
    with pytest.raises(ConfigError, match=r"alpha in \[0, 0.5\)"):
        Logit(0.5)
