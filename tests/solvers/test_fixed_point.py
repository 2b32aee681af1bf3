"""Solving y = x + g(x): true solutions, certificates, samples by themselves, and what is said where there is none."""

import math

import pytest
import torch

from invertible.errors import ConfigError, ConvergenceError, DomainError, ShapeError
from invertible.solvers.fixed_point import SolverOptions, solve_residual

EPS = torch.finfo(torch.float64).eps


def matrix(features, norm, kind="gauss"):
    q, r = torch.linalg.qr(torch.randn(features, features, dtype=torch.float64))
    if kind == "rotation":
        return norm * q
    if kind == "symmetric":
        return q @ torch.diag(torch.linspace(-norm, norm, features, dtype=torch.float64)) @ q.T
    return r * norm / torch.linalg.matrix_norm(r, 2)


def network(features, lipschitz, kind="gauss", dtype=torch.float64):
    """tanh between two matrices, of Lipschitz constant at most `lipschitz`, by rows."""
    inner, outer = matrix(features, 2.0, kind).to(dtype), matrix(features, lipschitz / 2, kind).to(dtype)
    shift = torch.randn(features, dtype=torch.float64).to(dtype)
    return lambda x, rows: torch.tanh(x @ inner.T + shift) @ outer.T


def size(g, x, y):
    return sum(torch.linalg.vector_norm(v.flatten(1), dim=1) for v in (x, g(x, torch.arange(len(x))), y))


def newton(g, y, steps=60):
    """The truth: Newton's method with dense Jacobians, from a long plain iteration."""
    x = y
    for _ in range(200):
        x = y - g(x, None)
    for _ in range(steps):
        jacobian = torch.func.vmap(torch.func.jacrev(lambda v: v + g(v[None], None)[0]))(x)
        x = x + torch.linalg.solve(jacobian, y - x - g(x, None))
    return x


@pytest.mark.parametrize("kind", ["gauss", "rotation", "symmetric"])
@pytest.mark.parametrize("lipschitz", [0.5, 0.9, 0.97, 0.99, 0.999])
def test_solution_and_bound(kind, lipschitz):
    g = network(8, lipschitz, kind)
    y = torch.randn(16, 8, dtype=torch.float64)
    found, truth = solve_residual(g, y, lipschitz=lipschitz), newton(g, y)
    error = (found.x - truth).norm(dim=1)
    assert bool(found.converged.all())
    assert bool((found.residual <= 2 * EPS * size(g, found.x, y) * (1 + 1e-6)).all())
    # The truth has an error of its own, of the rounding of g.
    assert bool((error <= found.error_bound + 8 * EPS * size(g, truth, y) / (1 - lipschitz)).all())


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9])
def test_bound_holds_for_rough_solutions(tolerance):
    g = network(6, 0.95, "symmetric")
    y = 3 * torch.randn(64, 6, dtype=torch.float64)
    found = solve_residual(g, y, lipschitz=0.95, options=SolverOptions(tolerance=tolerance))
    error = (found.x - solve_residual(g, y).x).norm(dim=1)
    assert bool((error <= found.error_bound).all())
    assert float(error.max()) > 0.01 * tolerance, "nothing was left to bound"
    assert bool((found.residual <= tolerance * size(g, found.x, y) * (1 + 1e-9)).all())


@pytest.mark.parametrize("kind", ["rotation", "symmetric"])
@pytest.mark.parametrize("lipschitz", [0.9, 0.99, 0.999])
def test_linear(kind, lipschitz):
    a = matrix(40, lipschitz, kind)
    y = torch.randn(8, 40, dtype=torch.float64)
    found = solve_residual(lambda x, rows: x @ a.T, y, lipschitz=lipschitz)
    truth = torch.linalg.solve(torch.eye(40, dtype=torch.float64) + a, y.T).T
    # Plain iteration would take log(eps)/log(L): 36,000 at 0.999.
    assert int(found.evaluations.max()) < 400
    assert bool(((found.x - truth).norm(dim=1) <= found.error_bound + 1e-12).all())


def test_residual_is_that_of_x():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        g = network(5, 0.9, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        y = torch.randn(32, 5, dtype=torch.float64).to(dtype)
        found = solve_residual(g, y, lipschitz=0.9)
        wide = found.x.to(found.residual.dtype)
        again = (wide + g(wide, None) - y).norm(dim=1)
        assert found.x.dtype == dtype
        torch.testing.assert_close(found.residual, again, rtol=1e-2, atol=4 * torch.finfo(again.dtype).eps * 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1e-30, 1e-3, 10.0, 1e3, 1e6])
def test_relative_at_every_scale(dtype, factor):
    g = network(4, 0.97, "rotation", dtype)
    y = factor * torch.randn(16, 4, dtype=dtype)
    found = solve_residual(g, y, lipschitz=0.97)
    assert bool((found.residual <= 2 * torch.finfo(dtype).eps * size(g, found.x, y) * 1.01).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_close_to_the_origin(dtype):
    """g(0) = 0 as a difference of large numbers, whose rounding no relative residual of a small x could meet."""
    y = torch.logspace(-12, 0, 64, dtype=torch.float64).to(dtype)[:, None]

    def g(x, rows):
        return -0.9 * ((x + 2.0) - 2.0)

    found = solve_residual(g, y, lipschitz=0.9)
    assert bool(((found.x.double() - 10 * y.double()).norm(dim=1) <= found.error_bound).all())
    assert bool((found.residual <= 32 * torch.finfo(dtype).eps * (1 + size(g, found.x, y))).all())
    assert int(found.evaluations.max()) < 100


@pytest.mark.parametrize("method", ["anderson", "picard", "newton-krylov"])
def test_samples_do_not_know_of_each_other(method):
    g, options = network(7, 0.9, "symmetric"), SolverOptions(method=method)
    y = torch.randn(24, 7, dtype=torch.float64) * torch.logspace(-3, 3, 24, dtype=torch.float64)[:, None]
    whole = solve_residual(g, y, lipschitz=0.9, options=options)
    order = torch.randperm(24)
    mixed = solve_residual(g, y[order], lipschitz=0.9, options=options)
    tolerance = 64 * EPS * size(g, whole.x, y)
    assert bool(((mixed.x - whole.x[order]).norm(dim=1) <= tolerance[order]).all())
    for sample in range(0, 24, 5):
        alone = solve_residual(g, y[sample : sample + 1], lipschitz=0.9, options=options)
        assert float((alone.x[0] - whole.x[sample]).norm()) <= float(tolerance[sample])


def test_solved_samples_leave_and_evaluations_are_counted():
    y = torch.randn(10, 3, dtype=torch.float64) * torch.logspace(-6, 2, 10, dtype=torch.float64)[:, None]
    counted = torch.zeros(10, dtype=torch.int64)

    def g(x, rows):
        assert x.shape == (len(rows), 3)
        assert bool((rows.sort().values.diff() > 0).all())
        counted[rows] += 1
        return 0.9 * torch.sin(x) * (1 + rows[:, None]) / 10

    found = solve_residual(g, y, lipschitz=0.9)
    assert torch.equal(found.evaluations, counted)
    assert int(counted.min()) < int(counted.max())


def test_rows_pick_the_condition():
    a, condition = matrix(4, 0.8), torch.randn(12, 4, dtype=torch.float64)
    y = torch.randn(12, 4, dtype=torch.float64) * torch.logspace(-4, 2, 12, dtype=torch.float64)[:, None]
    found = solve_residual(lambda x, rows: torch.tanh(x @ a.T + condition[rows]), y, lipschitz=0.8)
    torch.testing.assert_close(found.x + torch.tanh(found.x @ a.T + condition), y, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("features", [1, 2, 12])
@pytest.mark.parametrize("fallback", ["stall", "alone"])
def test_beyond_contractions(features, fallback):
    """L = 3 and I + J regular: its symmetric part is positive definite."""
    skew = torch.randn(features, features, dtype=torch.float64)
    skew = 3 * (skew - skew.T) / torch.linalg.matrix_norm(skew - skew.T, 2).clamp_min(1e-9)
    options = SolverOptions(method="newton-krylov" if fallback == "alone" else "picard")
    y = 3 * torch.randn(16, features, dtype=torch.float64)

    def g(x, rows):
        return x @ skew.T + 2 * x + torch.sin(x)

    found = solve_residual(g, y, options=options)
    assert bool(found.converged.all())
    assert bool(found.error_bound.isinf().all())
    torch.testing.assert_close(found.x + g(found.x, None), y, rtol=1e-12, atol=1e-12)


def test_fallback_where_forward_mode_is_missing():
    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return 3 * torch.sin(x)

        @staticmethod
        def backward(ctx, *grads):
            return grads[0] * 3 * torch.cos(ctx.saved_tensors[0])

    y = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    found = solve_residual(lambda x, rows: Sine.apply(x), y, options=SolverOptions(method="newton-krylov"))
    torch.testing.assert_close(found.x + 3 * torch.sin(found.x), y, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("g", "y"),
    [
        (lambda x, rows: x * x, -torch.ones(3, 2)),
        (lambda x, rows: -x, torch.ones(3, 2)),
        (lambda x, rows: -2 * x.abs(), torch.ones(3, 1)),
        (lambda x, rows: torch.where(x > 0.5, x.new_tensor(1.0), 0.0), torch.ones(3, 1)),
    ],
    ids=["no real root", "constant", "fold", "jump"],
)
@pytest.mark.parametrize("fallback", [True, False])
def test_no_solution(g, y, fallback):
    options = SolverOptions(fallback=fallback, max_evaluations=60)
    with pytest.raises(ConvergenceError, match="solve_residual: expected .* sample 0") as caught:
        solve_residual(g, y, options=options)
    assert caught.value.iterations is not None
    assert 0 < caught.value.iterations <= 120
    assert caught.value.residual is not None
    assert caught.value.residual > 1e-3


def test_failure_returned_when_asked_for():
    def g(x, rows):
        return torch.where(rows[:, None] == 1, -x, 0.5 * x)

    found = solve_residual(g, torch.ones(3, 2), options=SolverOptions(on_failure="return"))
    assert found.converged.tolist() == [True, False, True]
    assert bool((found.residual[1] > 0.1).all())


def test_evaluations_are_limited():
    g = network(6, 0.99, "rotation")
    with pytest.raises(ConvergenceError, match="after 5 evaluations of g. Raise max_evaluations"):
        solve_residual(g, torch.randn(4, 6, dtype=torch.float64), options=SolverOptions(max_evaluations=5))


def test_tolerance_beyond_the_dtype():
    g = network(6, 0.9, dtype=torch.float32)
    with pytest.raises(ConvergenceError, match="rounding of g: raise tolerance, or solve in float64"):
        solve_residual(g, torch.randn(64, 6), options=SolverOptions(tolerance=1e-12))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_named(bad):
    y = torch.randn(5, 2)
    y[3, 1] = bad
    with pytest.raises(DomainError, match="MyBlock: expected finite y, got NaN or infinity in sample 3"):
        solve_residual(lambda x, rows: 0.5 * x, y, owner="MyBlock")
    calls = []

    def g(x, rows):
        calls.append(len(rows))
        return torch.where(rows[:, None] == 2, bad, 0.5 * x)

    with pytest.raises(ConvergenceError, match="expected g\\(x\\) to be finite, got other values in sample 2"):
        solve_residual(g, torch.randn(5, 2))
    assert calls == [5]


@pytest.mark.parametrize("shape", [(0, 3), (0, 2, 4, 4), (1, 3), (5, 1), (3, 2, 4, 4), (4, 0), (6,)])
def test_shapes(shape):
    y = torch.randn(shape)
    found = solve_residual(lambda x, rows: 0.9 * torch.sin(x), y, lipschitz=0.9)
    assert found.x.shape == y.shape
    for each in (found.residual, found.error_bound, found.evaluations, found.converged):
        assert each.shape == (len(y),)
    torch.testing.assert_close(found.x + 0.9 * torch.sin(found.x), y, rtol=1e-6, atol=1e-6)


def test_zeros_and_constants():
    zero = solve_residual(lambda x, rows: 0.5 * x, torch.zeros(3, 2), lipschitz=0.5)
    assert torch.equal(zero.x, torch.zeros(3, 2))
    assert bool((zero.evaluations == 1).all())
    constant = solve_residual(lambda x, rows: torch.full_like(x, 4.0), torch.ones(3, 2))
    assert torch.equal(constant.x, torch.full((3, 2), -3.0))


def test_start_at_the_solution():
    g = network(6, 0.97)
    y = torch.randn(8, 6, dtype=torch.float64)
    found = solve_residual(g, y)
    again = solve_residual(g, y, start=found.x)
    assert torch.equal(again.x, found.x)
    assert bool((again.evaluations == 1).all())


def test_neither_graph_nor_autocast():
    a = matrix(4, 0.9).float().requires_grad_()
    y = torch.randn(6, 4, requires_grad=True)
    plain = solve_residual(lambda x, rows: x @ a.T, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = solve_residual(lambda x, rows: x @ a.T, y)
    assert not found.x.requires_grad
    assert torch.equal(found.x, plain.x)


def test_arguments():
    y = torch.randn(4, 3)
    with pytest.raises(ShapeError, match="expected g to keep the shape"):
        solve_residual(lambda x, rows: x[:, :1], y)
    with pytest.raises(ShapeError, match="expected start of y's shape"):
        solve_residual(lambda x, rows: x, y, start=y[:2])
    with pytest.raises(ShapeError, match="floating point"):
        solve_residual(lambda x, rows: x, torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(ConfigError, match="torch.func transforms"):
        torch.vmap(lambda v: solve_residual(lambda x, rows: 0.5 * x, v[None]).x)(y)
    with pytest.raises(ConfigError, match="expected method to be one of"):
        SolverOptions(method="broyden")
    with pytest.raises(ConfigError, match="expected 0 < tolerance < 1"):
        SolverOptions(tolerance=-1e-6)
    with pytest.raises(ConfigError, match="at least 1"):
        SolverOptions(memory=0)
