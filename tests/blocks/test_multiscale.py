"""FactorOut keeps every latent; resampling happens only when asked for."""

import pytest
import torch

from invertible import AffineCoupling, Chain, ConfigError, FactorOut, ShapeError, Squeeze, resampled
from tests.tools import randomise

pytestmark = pytest.mark.usefixtures("float64")


def two_levels() -> Chain:
    inner = FactorOut(randomise(AffineCoupling(2, spatial_dims=2), 0.1))
    return Chain(Squeeze(), FactorOut(inner), Squeeze().inverted)


def test_factored_out_channels_pass_through() -> None:
    block = FactorOut(randomise(AffineCoupling(4), 0.3))
    x = torch.randn(5, 8)
    y, log_det = block(x)
    assert torch.equal(y[:, 4:], x[:, 4:])
    expected, expected_log_det = block.inner(x[:, :4])
    assert torch.equal(y[:, :4], expected)
    assert torch.equal(log_det, expected_log_det)


def test_resampled_replaces_factored_out_latents_only_inside_the_context() -> None:
    model, x = two_levels(), torch.randn(6, 2, 4, 4)
    z, _ = model(x)
    with resampled(model, 0.5, torch.Generator().manual_seed(0)):
        first, _ = model.inverse(z)
    with resampled(model, 0.5, torch.Generator().manual_seed(0)):
        second, _ = model.inverse(z)
    assert torch.equal(first, second)
    kept = model(first)[0]
    squeezed, squeezed_again = Squeeze()(z)[0], Squeeze()(kept)[0]
    assert torch.allclose(squeezed[:, :2], squeezed_again[:, :2])
    assert not torch.isclose(squeezed[:, 2:], squeezed_again[:, 2:]).any()
    assert torch.allclose(model.inverse(z)[0], x)


def test_temperature_is_the_deviation() -> None:
    block = FactorOut(AffineCoupling(2))
    with resampled(block, 0.3):
        x, _ = block.inverse(torch.zeros(100_000, 4))
    assert x[:, 2:].std().item() == pytest.approx(0.3, rel=0.02)
    with resampled(block, 0.0):
        assert block.inverse(torch.ones(3, 4))[0][:, 2:].eq(0).all()


def test_context_is_undone_after_an_error_and_nests() -> None:
    model, x = two_levels(), torch.randn(2, 2, 4, 4)
    z, _ = model(x)
    with pytest.raises(KeyError), resampled(model):
        raise KeyError
    assert torch.allclose(model.inverse(z)[0], x)
    with resampled(model, 1.0):
        with resampled(model, 0.0):
            cold, _ = model.inverse(z)
        warm, _ = model.inverse(z)
    assert Squeeze()(cold)[0][:, 4:].eq(0).all()
    assert not Squeeze()(warm)[0][:, 4:].eq(0).any()


def test_errors() -> None:
    with pytest.raises(ShapeError, match="FactorOut: expected x with an even number of channels"):
        FactorOut(AffineCoupling(2))(torch.randn(2, 5))
    with pytest.raises(ShapeError, match="below that of x"):
        FactorOut(AffineCoupling(2), kept=2)(torch.randn(2, 2))
    with pytest.raises(ConfigError, match="kept of at least 1"):
        FactorOut(AffineCoupling(2), kept=0)
    with pytest.raises(ConfigError, match="expected FactorOut blocks in model"), resampled(AffineCoupling(2)):
        pass


def test_an_inner_block_that_changes_the_size_is_refused():
    block = FactorOut(Squeeze())
    with pytest.raises(
        ShapeError, match=r"FactorOut: expected inner to keep the size of its input, \(4, 4\), got \(2, 2\)"
    ):
        block(torch.randn(2, 4, 4, 4))
