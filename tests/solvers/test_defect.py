"""The exact inverse of a discrete map by defect correction."""

import pytest
import torch
from torch import Tensor

from invertible.errors import ConfigError, ConvergenceError, DomainError
from invertible.solvers.defect import exact_inverse
from invertible.solvers.ode.fixed_step import FixedStepSolver
from tests.solvers.ode.fields import Net, of


def flow(method: str, steps: int, gain: float, dtype: torch.dtype):
    """A discrete solution forward and backward."""
    net, solver = Net(gain=gain).to(dtype), FixedStepSolver(method, steps)

    def run(x: Tensor, start: float, end: float) -> Tensor:
        return solver.solve(of(net), (x,), start, end).state[0]

    return lambda x: run(x, 0.0, 1.0), lambda y: run(y, 1.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("method", "gain"), [("euler", 1.0), ("midpoint", 3.0), ("rk4", 6.0)])
def test_the_residual_is_rounding_where_solving_backward_leaves_an_error(method, gain, dtype) -> None:
    forward, backward = flow(method, 10, gain, dtype)
    y = forward(3 * torch.randn(32, 3, dtype=dtype)).detach()
    x = exact_inverse(forward, backward, y)
    scale = 64 * torch.finfo(dtype).eps * (1 + y.norm(dim=1))
    assert x.dtype == dtype
    assert not x.requires_grad
    assert ((forward(x) - y).norm(dim=1) <= scale).all()
    if dtype == torch.float64:
        assert ((forward(backward(y)) - y).norm(dim=1) > 10 * scale).any()


def test_a_sample_does_not_depend_on_the_others() -> None:
    forward, backward = flow("euler", 8, 1.5, torch.float64)
    y = forward(torch.randn(16, 3, dtype=torch.float64) * torch.logspace(-3, 1, 16, dtype=torch.float64)[:, None])
    together = exact_inverse(forward, backward, y)
    alone = torch.cat([exact_inverse(forward, backward, row[None]) for row in y])
    torch.testing.assert_close(together, alone, rtol=1e-14, atol=1e-14)


def test_samples_that_are_solved_keep_their_answer() -> None:
    forward, backward = flow("euler", 8, 1.0, torch.float64)
    y = forward(torch.randn(8, 3, dtype=torch.float64)).detach()
    seen = []

    def watched(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return forward(x)

    x = exact_inverse(watched, backward, y, tolerance=1e-8)
    misses = [(forward(each) - y).norm(dim=1) <= 1e-8 * (1 + y.norm(dim=1)) for each in seen]
    for before, after, done in zip(seen, seen[1:], misses, strict=False):
        assert torch.equal(before[done], after[done])
    assert torch.equal(x, seen[-1])


def test_a_map_that_expands_past_the_default_tolerance_is_inverted_as_far_as_its_numbers_go() -> None:
    forward = lambda x: 1e6 * x + x.sin()  # noqa: E731
    x = torch.randn(16, 2, dtype=torch.float32)
    found = exact_inverse(forward, lambda y: y / (1e6 + 100), forward(x))
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-6)


def test_halved_corrections_tame_an_approximate_inverse_that_overshoots() -> None:
    x = torch.randn(16, 2, dtype=torch.float64)
    found = exact_inverse(lambda v: v + 0.1 * v.sin(), lambda y: 2.5 * y, x + 0.1 * x.sin())
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-13)


def test_what_does_not_converge_raises_and_names_the_sample() -> None:
    y = torch.ones(4, 2, dtype=torch.float64)
    y[2] = 30.0
    with pytest.raises(ConvergenceError, match="sample 2") as caught:
        exact_inverse(lambda x: x.clamp(max=2.0), lambda y: y, y, owner="Block")
    assert "Block" in str(caught.value)
    assert caught.value.residual is not None
    assert caught.value.residual > 1


def test_a_tolerance_that_rounding_forbids_raises() -> None:
    with pytest.raises(ConvergenceError, match="larger tolerance"):
        exact_inverse(lambda x: x.exp(), lambda y: y.log() + 1e-3, torch.rand(256, 8) + 1, tolerance=1e-12)


def test_nan_and_bad_arguments_are_refused() -> None:
    identity = lambda x: x  # noqa: E731
    with pytest.raises(DomainError, match="sample 1"):
        exact_inverse(identity, identity, torch.tensor([[0.0], [torch.nan]]))
    with pytest.raises(ConfigError, match="tolerance"):
        exact_inverse(identity, identity, torch.ones(2, 1), tolerance=0.0)
    with pytest.raises(ConfigError, match="max_iterations"):
        exact_inverse(identity, identity, torch.ones(2, 1), max_iterations=0)
    assert exact_inverse(identity, identity, torch.ones(0, 3)).shape == (0, 3)
