"""Dequantisation never changes a level."""

import pytest
import torch

from invertible import ConfigError, Dequantize, DomainError, ShapeError


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [2, 3, 17, 255, 256, 65536])
def test_levels_survive_any_noise(levels: int, dtype: torch.dtype) -> None:
    block = Dequantize(levels)
    k = torch.randint(levels, (200_000,))
    x = block(k, dtype=dtype)
    assert x.min() >= 0
    assert x.max() < 1
    assert torch.equal(block.quantize(x), k)


def test_extreme_noise_stays_inside_its_level(monkeypatch: pytest.MonkeyPatch) -> None:
    k = torch.arange(65536)
    for noise in (0.0, 1 - 2**-24):
        monkeypatch.setattr(torch, "rand", lambda *a, noise=noise, **kw: torch.full(k.shape, noise))
        for levels in (65536, 65537, 70001):
            block = Dequantize(levels)
            assert torch.equal(block.quantize(block(k, dtype=torch.float32)), k)


def test_noise_is_uniform_and_reproducible() -> None:
    block = Dequantize(4)
    k = torch.full((100_000,), 2)
    x = block(k, torch.Generator().manual_seed(1))
    assert torch.equal(x, block(k, torch.Generator().manual_seed(1)))
    offset = x * 4 - 2
    assert abs(offset.mean() - 0.5) < 0.01
    assert abs(offset.var() - 1 / 12) < 0.002


def test_refuses_wrong_values() -> None:
    with pytest.raises(ShapeError, match="expected k of an integer dtype, got torch.float32"):
        Dequantize(4)(torch.zeros(2))
    with pytest.raises(DomainError, match=r"expected values in 0 .. 3, got 0 .. 4"):
        Dequantize(4)(torch.tensor([0, 4]))
    with pytest.raises(ConfigError, match="levels of at least 2"):
        Dequantize(1)
