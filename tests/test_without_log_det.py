"""What throws the log-determinant away does not pay for it, and gets the same values."""

import threading

import pytest
import torch

import invertible as inv
from invertible.without_log_det import log_det_wanted, without_log_det
from tests.registry import BLOCKS, make

COSTLY = [name for name in BLOCKS if name.startswith(("residual", "continuous"))]


@pytest.mark.parametrize("name", COSTLY)
@torch.no_grad()
def test_values_of_both_directions_are_the_same_without_log_det(name: str) -> None:
    block, x, condition = make(name, torch.float64)
    y, _ = block(x, condition)
    back, _ = block.inverse(y, condition)
    with without_log_det():
        fewer = block(x, condition), block.inverse(y, condition)
    for (value, log_det), expected in zip(fewer, (y, back), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-7)
        assert log_det.shape == (len(x),)


def block_of(family: str) -> inv.Bijection:
    """A block whose log-determinant costs."""
    torch.manual_seed(0)
    if family == "residual":
        return inv.ResidualBlock(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ELU(), torch.nn.Linear(8, 4)))
    return inv.models.ffjord(4, hidden=(8,), trace="exact", solver={"method": "rk4", "steps": 3}).bijection


@pytest.mark.parametrize("family", ["residual", "continuous"])
def test_gradients_of_values_are_the_same_without_log_det(family: str) -> None:
    block = block_of(family).double().eval()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    sources = [x, *block.parameters()]

    def gradients() -> list[torch.Tensor]:
        y, _ = block(x)
        back, _ = block.inverse(2 * y)
        return list(torch.autograd.grad(back.sin().sum() + y.square().sum(), sources, allow_unused=True))

    expected = gradients()
    with without_log_det():
        found = gradients()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("family", ["residual", "continuous"])
def test_sampling_and_encoding_evaluate_no_log_det(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = inv.Flow(block_of(family).eval(), inv.StandardNormal((4,)))
    expected, _ = flow.sample_with_log_prob(3, generator=torch.Generator().manual_seed(1))

    def refused(*args: object, **options: object) -> None:
        raise AssertionError("A log-determinant was computed.")

    monkeypatch.setattr("invertible.blocks.residual.exact.ExactLogDet.estimate", refused)
    monkeypatch.setattr("invertible.blocks.continuous.field.divergence", refused)
    x = flow.sample(3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(x, expected)
    torch.testing.assert_close(flow.decode(flow.encode(x)), x)
    with pytest.raises(AssertionError, match="was computed"):
        flow.log_prob(x)


def test_the_wish_ends_with_its_block_and_is_its_threads_own() -> None:
    seen = []

    @without_log_det()
    def fails() -> None:
        thread = threading.Thread(target=lambda: seen.append(log_det_wanted()))
        thread.start()
        thread.join()
        seen.append(log_det_wanted())
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fails()
    assert seen == [True, False]
    assert log_det_wanted()
