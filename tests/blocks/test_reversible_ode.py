"""The reversible ODE block: its laws over variants, its steps under every memory strategy, its exact form."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import invertible as inv
from invertible.blocks.nets import fit_condition
from invertible.blocks.reversible_ode import ReversibleODE
from invertible.errors import ConfigError, ShapeError
from invertible.norms import lipschitz_bound
from invertible.solvers.ode.fixed_step import FixedStepSolver
from invertible.solvers.ode.leapfrog import AsynchronousLeapfrog
from invertible.solvers.ode.one_step import METHODS
from invertible.solvers.ode.reversible import ReversibleSolver
from invertible.solvers.ode.reversible_heun import ReversibleHeun
from invertible.testing import check_bijection


class Field(nn.Module):
    """tanh of a linear layer or convolution of the state and the condition, shifted by the time."""

    def __init__(self, features: int = 3, condition_features: int = 0, axes: int = 0) -> None:
        super().__init__()
        layers = {0: nn.Linear, 1: lambda a, b: nn.Conv1d(a, b, 3, padding=1), 2: lambda a, b: nn.Conv2d(a, b, 1)}
        self.inner, self.outer = layers[axes](features + condition_features, 5), layers[axes](5, features)
        self.condition_features = condition_features

    def forward(self, t, x, condition=None):
        if condition is not None:
            x = torch.cat((x, fit_condition(condition, x)), 1)
        return self.outer(torch.tanh(self.inner(x) + t))

    def lipschitz_bound(self) -> float:
        return math.inf if self.condition_features else lipschitz_bound(self.inner) * lipschitz_bound(self.outer)


SOLVERS = {
    "midpoint": ReversibleSolver("midpoint", 4, coupling=1.0),
    "rk4, coupled": ReversibleSolver("rk4", 3, coupling=0.8),
    "default coupling": ReversibleSolver("heun", 2),
    "leapfrog": AsynchronousLeapfrog(5),
    "damped leapfrog": AsynchronousLeapfrog(5, damping=0.9),
    "Heun": ReversibleHeun(4),
}
VARIANTS = {
    **{name: (lambda s=solver: ReversibleODE(Field(), solver=s), (6,), None) for name, solver in SOLVERS.items()},
    "backward in time": (lambda: ReversibleODE(Field(), time=(1.0, -0.5)), (6,), None),
    "conditional": (lambda: ReversibleODE(Field(condition_features=2)), (6,), (2,)),
    "sequences": (lambda: ReversibleODE(Field(2, axes=1), solver=SOLVERS["rk4, coupled"]), (4, 5), None),
    "images": (lambda: ReversibleODE(Field(2, axes=2), solver=AsynchronousLeapfrog(3)), (4, 3, 3), None),
}
EXACT = {name: solver for name, solver in SOLVERS.items() if name in ("midpoint", "leapfrog", "Heun")}


# The others are in the table of all blocks.
@pytest.mark.parametrize("name", ["default coupling", "damped leapfrog", "Heun", "backward in time", "sequences"])
def test_laws(name: str) -> None:
    build, shape, condition = VARIANTS[name]
    block = build()
    check_bijection(block, torch.randn(5, *shape), None if condition is None else torch.randn(5, *condition))
    assert block.volume_preserving == all(abs(shear.keep) == 1 for shear in block._shears)


@pytest.mark.parametrize("name", SOLVERS)
def test_log_det_is_the_closed_form_and_that_of_the_dense_jacobian(name: str) -> None:
    block, x = ReversibleODE(Field(), solver=SOLVERS[name]).double(), torch.randn(4, 6).double()
    y, log_det = block(x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: block(v[None])[0][0]))(x)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian)[1], rtol=1e-9, atol=1e-9)
    closed = {
        "rk4, coupled": 3 * 3 * math.log(0.8),
        "default coupling": -3 * 7.0,
        "damped leapfrog": 15 * math.log(0.8),
    }
    torch.testing.assert_close(log_det, torch.full_like(log_det, closed.get(name, 0.0)))
    back, _ = block.inverse(y)
    torch.testing.assert_close(back, x, rtol=1e-11, atol=1e-11)


def test_with_equal_halves_it_solves_the_equation() -> None:
    net, x = Field().double(), torch.randn(4, 3).double()
    block = ReversibleODE(net, solver=ReversibleSolver("rk4", 40, coupling=1.0), time=(0.2, 1.0))
    (expected,), _ = FixedStepSolver("dopri5", 40).solve(lambda t, s: (net(t, s[0]),), (x,), 0.2, 1.0)
    for half in block(torch.cat((x, x), 1))[0].chunk(2, 1):
        torch.testing.assert_close(half, expected, rtol=1e-6, atol=1e-6)


def chain(solver, memory) -> inv.Chain:
    """Three blocks with permutations between, the same weights every time."""
    torch.manual_seed(5)
    blocks = []
    for seed in range(3):
        blocks += [ReversibleODE(Field(), solver=solver), inv.Permutation(6, seed=seed)]
    return inv.Chain(*blocks, memory=memory)


def run(net: inv.Chain, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, log_det and all gradients."""
    own = x.clone().requires_grad_()
    y, log_det = net(own)
    (y.sin().sum() + log_det.sum()).backward()
    assert own.grad is not None
    return [y.detach(), log_det.detach(), own.grad, *(p.grad for p in net.parameters() if p.grad is not None)]


# Three blocks of the default coupling multiply errors by 1100 each, more than float32 rebuilds.
@pytest.mark.parametrize("memory", ["checkpoint", "recursive", "reversible"])
@pytest.mark.parametrize("name", [name for name in SOLVERS if name != "default coupling"])
def test_every_memory_strategy_drives_its_steps(name: str, memory: str) -> None:
    x = torch.randn(7, 6)
    for found, expected in zip(
        run(chain(SOLVERS[name], memory), x), run(chain(SOLVERS[name], "store"), x), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", EXACT)
def test_exact_mode_keeps_every_bit(name: str) -> None:
    x = torch.randn(7, 6)
    rebuilt, stored = (run(chain(EXACT[name], inv.memory.Exact(bits=20, keep=keep)), x) for keep in ("output", "store"))
    for a, b in zip(rebuilt, stored, strict=True):
        assert torch.equal(a, b)
    net = chain(EXACT[name], inv.memory.Exact(bits=20))
    with torch.no_grad():
        y = net(x)[0]
        assert torch.equal(net(net.inverse(y)[0])[0], y)


def test_a_coupling_below_one_has_no_exact_form() -> None:
    with pytest.raises(ConfigError, match="no exact form"):
        chain(SOLVERS["rk4, coupled"], "exact")(torch.randn(2, 6))


def test_its_steps_have_one_evaluation_in_reconstruction() -> None:
    net, count = Field(), [0]
    net.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    own = inv.Chain(ReversibleODE(net, solver=SOLVERS["midpoint"]), memory="reversible")
    y, _ = own(torch.randn(3, 6, requires_grad=True))
    forward = count[0]
    y.sum().backward()
    assert (forward, count[0]) == (16, 32)


def test_bounds_of_one_step_methods_hold_for_linear_fields() -> None:
    for method in METHODS.values():
        (moved,) = method.increment(lambda t, s: (-2 * s[0],), 0.0, (torch.ones(1),), 0.3)
        assert abs(float(moved)) <= method.lipschitz(2.0, 0.3) * (1 + 1e-6)
        (moved,) = method.increment(lambda t, s: (2 * s[0],), 0.0, (torch.ones(1).double(),), 0.3)
        if all(weight >= 0 for row in (*method.stages, method.weights) for weight in row):
            assert float(moved) == pytest.approx(method.lipschitz(2.0, 0.3))
        assert math.isinf(method.lipschitz(math.inf, 0.3))
        assert method.lipschitz(0.0, 0.3) == 0


def test_copies_dtypes_and_empty_batches() -> None:
    block, x = ReversibleODE(Field(), solver=SOLVERS["rk4, coupled"]), torch.randn(3, 6)
    y, _ = block(x)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(other(x)[0], y)
    with torch.autocast("cpu", torch.bfloat16):
        assert [each.dtype for each in block(x)] == [torch.float32, torch.float32]
    assert [each.dtype for each in copy.deepcopy(block).bfloat16()(x.bfloat16())] == [torch.bfloat16, torch.float32]
    assert block(x[:0])[0].shape == (0, 6)


def test_messages(unchecked_types) -> None:
    with pytest.raises(ShapeError, match="even"):
        ReversibleODE(Field())(torch.randn(2, 7))
    with pytest.raises(ShapeError, match="components"):
        ReversibleODE(Grown())(torch.randn(2, 6))
    with pytest.raises(ConfigError, match="times"):
        ReversibleODE(Field(), time=(1.0, 1.0))
    with unchecked_types(), pytest.raises(ConfigError, match="ContinuousBlock"):
        ReversibleODE(Field(), solver=FixedStepSolver())
    with unchecked_types(), pytest.raises(ConfigError, match="Module"):
        ReversibleODE(lambda t, x: x)


class Grown(nn.Module):
    """A field of the wrong shape."""

    def forward(self, t, x):
        return x[:, :1]
