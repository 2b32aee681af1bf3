"""The continuous block: log-determinants, round trips, gradients, energies, memory, errors."""

import copy
import math
import pickle

import pytest
import torch

from invertible import Chain, set_memory
from invertible.bijection import Bijection
from invertible.blocks.continuous import ContinuousBlock, TimeNet, Trace, energies
from invertible.errors import ConfigError, ConvergenceError, ShapeError
from invertible.norms import ode_norms
from invertible.solvers.ode.adaptive import AdaptiveSolver
from invertible.solvers.ode.fixed_step import FixedStepSolver
from invertible.testing import check_bijection
from tests.tools import randomise

pytestmark = pytest.mark.usefixtures("float64")

TIGHT = AdaptiveSolver(rtol=1e-8, atol=1e-8)
# So accurate that the laws hold at rounding.
LAWFUL = {"solver": FixedStepSolver("dopri5", 4), "time": (0.0, 0.1), "trace": "exact"}


class Linear(torch.nn.Module):
    """v(t, x) = A x, without a condition."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = torch.nn.Parameter(matrix)

    def forward(self, t, x):
        return x @ self.matrix.T


class Field(torch.nn.Module):
    """Any function as a net."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, t, x):
        return self.function(t, x)


def net(features=3, deviation=0.4, **options):
    return randomise(TimeNet(features, hidden=options.pop("hidden", (8,)), **options), deviation)


def dense(block, x, condition=None):
    """log|det J| by autograd of the computed map."""
    one = lambda row: block(row[None], condition)[0][0]  # noqa: E731
    jacobians = torch.stack([torch.autograd.functional.jacobian(one, row) for row in x])
    size = x[0].numel()
    return torch.linalg.slogdet(jacobians.reshape(len(x), size, size))[1]


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (lambda: ContinuousBlock(net(2), **LAWFUL), (2,)),
        (lambda: ContinuousBlock(net(2, layer="concat", activation="silu"), **LAWFUL), (2,)),
        (lambda: ContinuousBlock(net(1, spatial_dims=2, hidden=(3,)), **LAWFUL), (1, 2, 2)),
        (lambda: ContinuousBlock(net(2), **LAWFUL).inverted, (2,)),
    ],
    ids=["vectors", "concat", "images", "inverted"],
)
def test_laws_with_accurate_fixed_steps(block, shape: tuple[int, ...]) -> None:
    check_bijection(block(), torch.randn(2, *shape), dtypes=(torch.float64,))


@pytest.mark.parametrize("solver", [TIGHT, FixedStepSolver("rk4", 60)], ids=["adaptive", "fixed"])
@pytest.mark.parametrize("time", [(0.0, 1.0), (0.5, -0.5)], ids=["forward", "backward"])
def test_linear_systems(solver, time: tuple[float, float]) -> None:
    matrix = 0.5 * torch.randn(3, 3)
    block, span = ContinuousBlock(Linear(matrix), solver=solver, time=time, trace="exact"), time[1] - time[0]
    x = torch.randn(5, 3)
    y, log_det = block(x)
    assert torch.allclose(y, x @ torch.linalg.matrix_exp(span * matrix).T, atol=1e-6)
    assert torch.allclose(log_det, (span * matrix.trace()).expand(5), atol=1e-12)
    back, back_log_det = block.inverse(y)
    assert torch.allclose(back, x, atol=1e-9)
    assert torch.allclose(back_log_det, -log_det, atol=1e-9)


@pytest.mark.parametrize("condition_features", [0, 2])
@pytest.mark.parametrize("layer", ["concatsquash", "concat"])
def test_log_det_against_the_dense_jacobian(layer: str, condition_features: int) -> None:
    block = ContinuousBlock(net(3, layer=layer, condition_features=condition_features), solver=TIGHT, trace="exact")
    x = torch.randn(2, 3)
    condition = torch.randn(1, 2) if condition_features else None
    _, log_det = block(x, None if condition is None else condition.expand(2, 2))
    assert torch.allclose(log_det, dense(block, x, condition), atol=1e-5)
    assert float(log_det.abs().detach().max()) > 1e-2


@pytest.mark.parametrize(("rtol", "within"), [(1e-3, 1e-2), (1e-5, 1e-4), (1e-8, 1e-7)])
def test_round_trips_near_and_far(rtol: float, within: float) -> None:
    block = ContinuousBlock(net(2, 0.8, hidden=(16, 16)), rtol=rtol, atol=rtol).eval()
    x = torch.randn(16, 2) * torch.tensor([1.0, 10.0, 100.0, 1e4]).repeat(4)[:, None]
    with torch.no_grad():
        y, log_det = block(x)
        back, back_log_det = block.inverse(y)
        again, _ = block(back)
    assert ((again - y).norm(dim=1) / (1 + y.norm(dim=1))).max() <= 0.2 * rtol
    assert ((back - x).norm(dim=1) / (1 + x.norm(dim=1))).max() < within
    assert ((back_log_det + log_det).abs() / (1 + log_det.abs())).max() < 10 * within


def test_the_correction_is_what_makes_the_inverse_one() -> None:
    block = ContinuousBlock(net(2, 0.9, hidden=(16, 16)), solver=FixedStepSolver("rk4", 4))
    x = torch.randn(16, 2)
    with torch.no_grad():
        y, _ = block(x)
        corrected, _ = block.inverse(y)
        block.inverse_tolerance = math.inf
        plain, _ = block.inverse(y)
    assert (corrected - x).abs().max() < 1e-10
    assert (plain - x).abs().max() > 1e-6


def test_log_det_differs_from_that_of_the_discrete_map_by_the_order_of_the_method() -> None:
    x, field, errors = torch.randn(6, 2), net(2, 0.8), []
    for steps in (10, 20):
        block = ContinuousBlock(field, solver=FixedStepSolver("rk4", steps), trace="exact")
        errors.append(float((block(x)[1] - dense(block, x)).detach().norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.7)


def test_rows_do_not_depend_on_each_other() -> None:
    block = ContinuousBlock(net(2, 0.8), rtol=1e-3, atol=1e-3).eval()
    x = torch.randn(6, 2)
    with torch.no_grad():
        y, log_det = block(x)
        back, _ = block.inverse(y)
        for row in range(6):
            alone, alone_log_det = block(x[row : row + 1])
            assert torch.allclose(alone[0], y[row], rtol=0, atol=1e-13)
            assert torch.allclose(alone_log_det[0], log_det[row], rtol=0, atol=1e-12)
            assert torch.allclose(block.inverse(y[row : row + 1])[0][0], back[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("gradient", ["replay", "adjoint", "direct", "fixed"])
def test_gradients_of_both_directions(direction: str, gradient: str) -> None:
    solver = (
        FixedStepSolver("rk4", 30) if gradient == "fixed" else AdaptiveSolver(rtol=1e-9, atol=1e-9, gradient=gradient)
    )
    block = ContinuousBlock(net(2, condition_features=2), solver=solver, inverse_tolerance=1e-12, trace="exact")
    values = {"x": torch.randn(3, 2), "condition": torch.randn(3, 2)}
    leaves = {key: value.clone().requires_grad_() for key, value in values.items()}
    weight = block.net.layers[0].layer.weight
    u, w = torch.randn(3, 2), torch.randn(3)

    def loss(x, condition):
        y, log_det = getattr(block, direction)(x, condition)
        return (u * y).sum() + (w * log_det).sum()

    found = torch.autograd.grad(loss(**leaves), (*leaves.values(), weight))
    for which, gradient_of in zip(("x", "condition", "weight"), found, strict=True):
        step, at = 1e-4 * torch.randn_like(gradient_of), []
        for sign in (1, -1):
            with torch.no_grad():
                moved = {key: value + sign * step if key == which else value for key, value in values.items()}
                if which == "weight":
                    weight.add_(sign * step)
                at.append(loss(**moved))
                if which == "weight":
                    weight.sub_(sign * step)
        assert float((gradient_of * step).sum()) == pytest.approx(float(at[0] - at[1]) / 2, rel=1e-4, abs=1e-8)


def test_hutchinson_has_the_exact_trace_as_its_mean() -> None:
    field, x = net(5, 0.5), torch.randn(1, 5)
    options = {"solver": FixedStepSolver("rk4", 10)}
    _, exact = ContinuousBlock(field, trace="exact", **options)(x)
    for distribution in ("rademacher", "gaussian"):
        block = ContinuousBlock(field, trace=Trace("hutchinson", distribution), **options)
        _, estimates = block(x.expand(4000, 5))
        error = estimates.detach().std() / math.sqrt(4000)
        assert error > 0
        assert (estimates.mean() - exact).abs() < 4 * error
    # More probes, less variance.
    few, many = (
        ContinuousBlock(field, trace=Trace("hutchinson", training_probes=k), **options)(x.expand(500, 5))[1].var()
        for k in (1, 8)
    )
    assert many < few / 4


def test_eval_mode_is_deterministic_and_auto_is_exact_where_that_is_cheap() -> None:
    field = net(6)
    block = ContinuousBlock(field, trace="auto", solver=FixedStepSolver("rk4", 5))
    x = torch.randn(3, 6)
    assert not torch.equal(block(x)[1], block(x)[1])
    exact = ContinuousBlock(field, trace="exact", solver=FixedStepSolver("rk4", 5))(x)[1]
    assert torch.equal(block.eval()(x)[1], exact)
    fixed = ContinuousBlock(field, trace="hutchinson", solver=FixedStepSolver("rk4", 5)).eval()
    assert torch.equal(fixed(x)[1], fixed(x)[1])
    assert torch.allclose(fixed(x[1:2])[1], fixed(x)[1][1:2], atol=1e-14)


def test_the_path_does_not_depend_on_the_probe() -> None:
    block = ContinuousBlock(net(6, 0.8), trace="hutchinson", rtol=1e-3, atol=1e-3)
    x = torch.randn(3, 6)
    (y, log_det), (again, other) = block(x), block(x)
    assert torch.equal(y, again)
    assert not torch.equal(log_det, other)


def test_energies_against_quadrature() -> None:
    matrix = 0.6 * torch.randn(3, 3)
    block = ContinuousBlock(
        Linear(matrix), energies=True, solver=FixedStepSolver("rk4", 40), trace="exact", time=(0.0, 2.0)
    )
    x = torch.randn(5, 3)
    block(x)
    found = energies(block)
    times = torch.linspace(0, 2, 2001)
    speeds = torch.stack([(x @ torch.linalg.matrix_exp(t * matrix).T @ matrix.T).square().sum(1) for t in times])
    assert torch.allclose(found.kinetic, torch.trapezoid(speeds, times, dim=0) / 3, rtol=1e-5)
    assert torch.allclose(found.jacobian, (2 * matrix.square().sum() / 3).expand(5))
    assert torch.autograd.grad(found.kinetic.sum(), block.net.matrix)[0].norm() > 0


def test_energies_add_up_over_a_model_and_are_read_once() -> None:
    blocks = [ContinuousBlock(net(2), energies=True, solver=FixedStepSolver("rk4", 4)) for _ in range(2)]
    chain, x = Chain(*blocks), torch.randn(4, 2)
    chain(x)
    both = energies(chain)
    middle, _ = blocks[0](x)
    blocks[1](middle)
    parts = [energies(block) for block in blocks]
    assert torch.allclose(both.kinetic, parts[0].kinetic + parts[1].kinetic)
    assert torch.allclose(both.jacobian, parts[0].jacobian + parts[1].jacobian)
    with pytest.raises(ConfigError, match="2 of 2 without energies"):
        energies(chain)


@pytest.mark.parametrize("memory", ["checkpoint", "recursive", "reversible"])
def test_energies_under_memory_strategies(memory: str) -> None:
    blocks = [ContinuousBlock(net(6), energies=True, solver=FixedStepSolver("rk4", 4)) for _ in range(3)]
    x, results = torch.randn(3, 6), []
    for strategy in ("store", memory):
        chain = Chain(*blocks, memory=strategy)
        torch.manual_seed(3)
        _, log_det = chain(x)
        found = energies(chain)
        loss = (found.kinetic + 2 * found.jacobian).sum() - log_det.sum()
        results.append((loss.detach(), *torch.autograd.grad(loss, list(chain.parameters()))))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-10)


def test_energies_say_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="energies=True"):
        energies(Chain(ContinuousBlock(net(2))))
    chain = Chain(ContinuousBlock(net(2), energies=True, solver=FixedStepSolver("rk4", 4)))
    with torch.no_grad():
        chain(torch.randn(4, 2))
        assert not energies(chain).kinetic.requires_grad
        chain(torch.randn(4, 2))
    with pytest.raises(ConfigError, match="the pass ran without grad"):
        energies(chain)
    block = ContinuousBlock(net(2), energies=True).eval()
    block(torch.randn(4, 2))
    with pytest.raises(ConfigError, match="training mode"):
        energies(block)


@pytest.mark.parametrize("memory", ["checkpoint", "recursive", "reversible"])
@pytest.mark.parametrize(
    "solver", [FixedStepSolver("rk4", 6), AdaptiveSolver(rtol=1e-6, atol=1e-6)], ids=["fixed", "adaptive"]
)
def test_memory_strategies_replay_the_probes(memory: str, solver) -> None:
    blocks = [ContinuousBlock(net(6), solver=solver, trace="hutchinson", inverse_tolerance=1e-9) for _ in range(2)]
    x = torch.randn(3, 6)
    results = []
    for strategy in ("store", memory):
        chain = Chain(*blocks)
        set_memory(chain, strategy)
        leaf = x.clone().requires_grad_()
        torch.manual_seed(3)
        y, log_det = chain(leaf)
        loss = y.square().sum() - log_det.sum()
        results.append((loss.detach(), *torch.autograd.grad(loss, (leaf, *chain.parameters()))))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_evaluations_are_counted() -> None:
    block = ContinuousBlock(net(2), solver=FixedStepSolver("rk4", 5), inverse_tolerance=math.inf)
    assert block.evaluations == (0, 0)
    with torch.no_grad():
        y, _ = block(torch.randn(4, 2))
        assert block.evaluations == (20, 0)
        block.inverse(y)
    assert block.evaluations == (20, 40)


def test_bounds_are_those_of_gronwall_and_hold() -> None:
    block = ContinuousBlock(net(3), solver=TIGHT, time=(0.0, 0.7))
    bounds = block.bounds()
    assert (bounds.forward, bounds.inverse) == ode_norms(block.net.lipschitz_bound(), 0.7)
    x, y = torch.randn(2, 20, 3)
    with torch.no_grad():
        ratio = (block(x)[0] - block(y)[0]).norm(dim=1) / (x - y).norm(dim=1)
    assert ratio.max() <= bounds.forward
    assert (1 / ratio).max() <= bounds.inverse
    assert ContinuousBlock(Linear(torch.eye(2))).bounds().forward == math.inf


def test_copies_after_a_training_pass() -> None:
    block = ContinuousBlock(net(2), energies=True, solver=FixedStepSolver("rk4", 3))
    x = torch.randn(4, 2)
    y, _ = block(x)
    for other in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(other(x)[0], y)
    assert energies(block).kinetic.shape == (4,)


@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
def test_low_precision(solver: str) -> None:
    block, x = ContinuousBlock(net(2), solver=solver).float(), torch.randn(4, 2).float()
    expected, expected_log_det = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = block(x)
    assert torch.equal(y, expected)
    assert torch.equal(log_det, expected_log_det)
    y, log_det = block.bfloat16()(x.bfloat16())
    assert (y.dtype, log_det.dtype) == (torch.bfloat16, torch.float32)
    assert torch.allclose(y.float(), expected, atol=0.2)


def test_empty_batches() -> None:
    for solver in ("dopri5", "rk4"):
        block = ContinuousBlock(net(2), solver=solver)
        y, log_det = block(torch.zeros(0, 2))
        assert (y.shape, log_det.shape) == ((0, 2), (0,))
        assert block.inverse(y)[0].shape == (0, 2)


def test_transforms_go_through_fixed_steps() -> None:
    block, x = (
        ContinuousBlock(net(3), trace="exact", solver=FixedStepSolver("dopri5", 8), time=(0.0, 0.1)),
        torch.randn(4, 3),
    )
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: block(row[None])[0][0]))(x)
    assert torch.allclose(torch.linalg.slogdet(jacobians)[1], block(x)[1], atol=1e-9)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (lambda t, x: x**2, "step size of sample 1 fell"),
        (lambda t, x: x * math.nan, "field is not finite near t = 0"),
        (lambda t, x: -1e7 * x, "max_steps"),
    ],
    ids=["blow-up", "nan", "stiff"],
)
def test_what_cannot_be_solved_is_an_error(field, expected: str) -> None:
    block = ContinuousBlock(Field(field), solver=AdaptiveSolver(max_steps=200))
    with pytest.raises(ConvergenceError, match=expected):
        block(torch.tensor([[0.1], [2.0]]))


def test_wrong_shapes_and_arguments() -> None:
    block = ContinuousBlock(net(3, condition_features=2))
    with pytest.raises(ShapeError, match=r"expected x of shape \(batch, 3\), got \(4, 2\)"):
        block(torch.randn(4, 2), torch.randn(4, 2))
    with pytest.raises(ShapeError, match="expected a condition"):
        block(torch.randn(4, 3))
    with pytest.raises(ShapeError, match="as many components as its state"):
        ContinuousBlock(Field(lambda t, x: x[:, :1]))(torch.randn(4, 2))
    for arguments, expected in (
        ({"time": (1.0, 1.0)}, "two different finite times"),
        ({"inverse_tolerance": 0.0}, "positive inverse_tolerance"),
        ({"solver": "rk9"}, "solver's method to be one of"),
        ({"solver": TIGHT, "rtol": 1e-3}, "Give the tolerances to the solver"),
        ({"solver": "rk4", "rtol": 1e-3}, "rk4 does not take all of"),
        ({"trace": "guess"}, "kind to be one of"),
    ):
        with pytest.raises(ConfigError, match=expected):
            ContinuousBlock(net(3), **arguments)


def test_the_block_speaks_the_protocol() -> None:
    assert isinstance(ContinuousBlock(net(2)), Bijection)
