"""The adaptive solver: accuracy, gradients, independence of rows, errors."""

import math

import pytest
import torch

from invertible.errors import ConfigError, ConvergenceError
from invertible.solvers.ode.adaptive import GRADIENTS, AdaptiveSolver
from invertible.solvers.ode.fixed_step import FixedStepSolver
from invertible.solvers.ode.solver import ODESolver

pytestmark = pytest.mark.usefixtures("float64")


def linear(matrix):
    return lambda t, state: (state[0] @ matrix.T,)


def pendulum(t, state):
    """Nonlinear, driven by time; times may be scalar or one a row."""
    (x,) = state
    return (torch.stack((x[:, 1], -3 * torch.sin(x[:, 0]) + torch.cos(2 * t)), 1),)


def solution(matrix, x):
    return x @ torch.linalg.matrix_exp(matrix).T


SOLVERS = {
    **{f"{m}-{g}": AdaptiveSolver(m, 1e-8, 1e-8, gradient=g) for m in ("dopri5", "tsit5") for g in GRADIENTS},
    "heun": AdaptiveSolver("heun", 1e-5, 1e-5),
    "shared": AdaptiveSolver(rtol=1e-8, atol=1e-8, shared_steps=True),
    "shared-adjoint": AdaptiveSolver(rtol=1e-8, atol=1e-8, shared_steps=True, gradient="adjoint"),
    "all": AdaptiveSolver(rtol=1e-8, atol=1e-8, control="all"),
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
@pytest.mark.parametrize("turned", [False, True], ids=["forward", "backward"])
def test_linear_systems_and_their_gradients(solver: ODESolver, turned: bool) -> None:
    matrix = (0.7 * torch.randn(3, 3)).requires_grad_()
    x, weights = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    expected = solution(-matrix if turned else matrix, x)
    start, end = (1.0, 0.0) if turned else (0.0, 1.0)
    (found,), evaluations = solver.solve(linear(matrix), (x,), start, end, (matrix,))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert evaluations >= 4
    wanted = torch.autograd.grad((weights * expected).sum(), (x, matrix))
    gradients = torch.autograd.grad((weights * found).sum(), (x, matrix))
    for a, b in zip(gradients, wanted, strict=True):
        assert torch.allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-9])
def test_the_error_follows_the_tolerance(rtol: float) -> None:
    x = torch.randn(64, 2)
    (exact,), _ = FixedStepSolver("rk4", 1000).solve(pendulum, (x,), 0.0, 2.0)
    (found,), evaluations = AdaptiveSolver(rtol=rtol, atol=rtol).solve(pendulum, (x,), 0.0, 2.0)
    error = (found - exact).abs().amax(1)
    assert error.median() < 10 * rtol
    # At a loose tolerance a step now and then passes its estimate by chance.
    assert error.max() < (400 if rtol == 1e-3 else 40) * rtol
    assert evaluations < 30 * (1e-3 / rtol) ** 0.25 + 40


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "heun"])
def test_replayed_gradients_are_those_through_the_solver(method: str) -> None:
    weight = torch.randn(2, 2, requires_grad=True)
    x, w = torch.randn(7, 2, requires_grad=True), torch.randn(7, 2)

    def field(t, state):
        return (torch.tanh(state[0] @ weight.T) * (1 + torch.sin(3 * t).reshape(-1, 1)),)

    found = {}
    for gradient in ("direct", "replay"):
        solver = AdaptiveSolver(method, 1e-3, 1e-3, gradient=gradient)
        (y,), _ = solver.solve(field, (x,), 0.0, 1.5, (weight,))
        found[gradient] = y, *torch.autograd.grad((w * y).sum(), (x, weight))
    for a, b in zip(found["direct"], found["replay"], strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_against_differences(gradient: str) -> None:
    weight = torch.randn(2, 2, requires_grad=True)
    x, w = torch.randn(3, 2, requires_grad=True), torch.randn(3, 2)

    def value(x, weight):
        solver = AdaptiveSolver(rtol=1e-9, atol=1e-9, gradient=gradient)
        (y,), _ = solver.solve(lambda t, s: (torch.tanh(s[0] @ weight.T),), (x,), 0.0, 1.0, (weight,))
        return (w * y).sum()

    gradients = torch.autograd.grad(value(x, weight), (x, weight))
    for which, gradient_of in enumerate(gradients):
        direction = torch.randn_like(gradient_of)
        shifted = [[x, weight], [x, weight]]
        for sign, arguments in zip((1, -1), shifted, strict=True):
            arguments[which] = arguments[which] + sign * 1e-5 * direction
        with torch.no_grad():
            difference = (value(*shifted[0]) - value(*shifted[1])) / 2e-5
        assert float((gradient_of * direction).sum()) == pytest.approx(float(difference), rel=1e-5, abs=1e-6)


def cubic(t, state):
    """x' = -x^3, so that x(1) = x / sqrt(1 + 2 x^2)."""
    return (-(state[0] ** 3),)


def test_second_derivatives_through_the_solver() -> None:
    x = torch.randn(2, 2, requires_grad=True)
    (y,), _ = AdaptiveSolver(rtol=1e-9, atol=1e-9, gradient="direct").solve(cubic, (x,), 0.0, 1.0)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.allclose(second, -6 * x / (1 + 2 * x**2) ** 2.5, atol=1e-3)


@pytest.mark.parametrize("gradient", ["replay", "adjoint"])
def test_second_derivatives_of_other_gradients_are_refused(gradient: str) -> None:
    x = torch.randn(2, 2, requires_grad=True)
    (y,), _ = AdaptiveSolver(gradient=gradient).solve(cubic, (x,), 0.0, 1.0)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert torch.allclose(first, (1 + 2 * x**2) ** -1.5, atol=1e-3)
    with pytest.raises(RuntimeError, match="Use gradient='direct'"):
        torch.autograd.grad(first.sum(), x)


def test_rows_do_not_depend_on_each_other() -> None:
    x = torch.randn(5, 2)
    x[3] *= 6
    solver = AdaptiveSolver(rtol=1e-4, atol=1e-4)
    (together,), _ = solver.solve(pendulum, (x,), 0.0, 2.0)
    for row in range(5):
        (alone,), _ = solver.solve(pendulum, (x[row : row + 1],), 0.0, 2.0)
        assert torch.allclose(together[row], alone[0], rtol=0, atol=1e-13)
    # One step size for all does make them depend on each other, by about the tolerance.
    shared = AdaptiveSolver(rtol=1e-4, atol=1e-4, shared_steps=True)
    (together,), _ = shared.solve(pendulum, (x,), 0.0, 2.0)
    (alone,), _ = shared.solve(pendulum, (x[:1],), 0.0, 2.0)
    assert 1e-9 < (together[:1] - alone).abs().max() < 1e-2


@pytest.mark.parametrize("shared", [False, True])
def test_times_have_the_promised_shape(shared: bool) -> None:
    seen = set()

    def field(t, state):
        seen.add((t.shape, t.dtype))
        return (-state[0],)

    AdaptiveSolver(shared_steps=shared).solve(field, (torch.ones(3, 2),), 0.0, 1.0)
    assert seen == {(torch.Size([] if shared else [3]), torch.float64)}


def test_integrals_do_not_change_the_path() -> None:
    x = torch.randn(4, 2)
    (alone,), _ = AdaptiveSolver(rtol=1e-3, atol=1e-3).solve(pendulum, (x,), 0.0, 2.0)
    state = (x, torch.zeros(4))
    field = lambda t, s: (*pendulum(t, s[:1]), 50 * torch.sin(20 * t) * s[0][:, 0])  # noqa: E731
    (along, _), _ = AdaptiveSolver(rtol=1e-3, atol=1e-3).solve(field, state, 0.0, 2.0)
    assert torch.equal(along, alone)
    (controlled, _), _ = AdaptiveSolver(rtol=1e-3, atol=1e-3, control="all").solve(field, state, 0.0, 2.0)
    assert not torch.equal(controlled, alone)


def test_an_adjoint_gradient_does_not_depend_on_the_loss_being_large() -> None:
    weight = torch.randn(2, 2, requires_grad=True)
    x = torch.randn(4, 2)
    solver = AdaptiveSolver(rtol=1e-6, atol=1e-6, gradient="adjoint")

    def gradient(factor):
        (y,), _ = solver.solve(lambda t, s: (torch.tanh(s[0] @ weight.T),), (x,), 0.0, 1.0, (weight,))
        return torch.autograd.grad(factor * y.square().sum(), weight)[0] / factor

    assert torch.allclose(gradient(1.0), gradient(1e-8), rtol=1e-9)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_parameters_without_a_part_in_it_and_empty_batches(gradient: str) -> None:
    solver, unused = AdaptiveSolver(gradient=gradient), torch.ones(2, requires_grad=True)
    x = torch.randn(3, 2, requires_grad=True)
    (y,), _ = solver.solve(lambda t, s: (-s[0],), (x,), 0.0, 1.0, (unused,))
    (a, b) = torch.autograd.grad(y.sum(), (x, unused), allow_unused=True)
    assert torch.allclose(a, torch.full_like(a, math.exp(-1)), atol=1e-4)
    assert b is None or not b.any()
    (y,), evaluations = solver.solve(lambda t, s: (-s[0],), (x[:0],), 0.0, 1.0)
    assert (y.shape, evaluations) == ((0, 2), 0)


def test_float32_tolerances_stop_at_rounding() -> None:
    x = torch.randn(4, 2, dtype=torch.float32)
    (y,), evaluations = AdaptiveSolver(rtol=1e-12, atol=1e-12).solve(lambda t, s: (-s[0],), (x,), 0.0, 1.0)
    assert y.dtype == torch.float32
    assert torch.allclose(y, x * math.exp(-1), atol=1e-5)
    assert evaluations < 200


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (lambda t, s: (s[0] ** 2,), r"step size of sample 1 fell to .*e-13 at t = 0\.5"),
        (lambda t, s: (s[0] * math.nan,), r"field is not finite near t = 0 for sample 0"),
        (lambda t, s: (torch.sqrt(0.3 - t).reshape(-1, 1) + 0 * s[0],), r"field is not finite near t = 0\.3"),
        (lambda t, s: (-1e6 * (s[0] - torch.cos(t).reshape(-1, 1)),), r"max_steps = 200 attempts are used up"),
    ],
    ids=["blow-up", "nan", "end of the domain", "stiff"],
)
@pytest.mark.parametrize("gradient", ["replay", "direct"])
def test_errors_say_where_and_what_to_do(field, expected: str, gradient: str) -> None:
    x = torch.tensor([[0.1], [2.0]], requires_grad=True)
    with pytest.raises(ConvergenceError, match=expected) as caught:
        AdaptiveSolver(max_steps=200, gradient=gradient).solve(field, (x,), 0.0, 1.0)
    assert "fixed steps" in str(caught.value)
    assert caught.value.iterations is not None
    assert caught.value.iterations > 1


def test_a_step_out_of_the_domain_is_taken_back() -> None:
    # log(x) is not defined where the first step tried leads.
    (y,), _ = AdaptiveSolver().solve(lambda t, s: (-3 * torch.log(s[0] + 1),), (torch.full((2, 1), 30.0),), 0.0, 3.0)
    assert bool((y > 0).all())


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: AdaptiveSolver("rk5"), "method to be one of 'dopri5'"),
        (lambda: AdaptiveSolver(gradient="magic"), "gradient to be one of 'replay'"),
        (lambda: AdaptiveSolver(control="some"), "control to be one of"),
        (lambda: AdaptiveSolver(rtol=-1.0), "rtol >= 0, got -1"),
        (lambda: AdaptiveSolver(rtol=0.0, atol=0.0), "rtol or atol above 0"),
        (lambda: AdaptiveSolver(max_steps=0), "max_steps to be an integer"),
    ],
)
def test_wrong_arguments(build, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        build()
