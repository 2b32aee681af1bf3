"""Reversible solvers: orders of convergence, reversibility, gradients, memory."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from invertible.errors import ConfigError, ShapeError
from invertible.solvers.ode.algebraic import AlgebraicallyReversible
from invertible.solvers.ode.fixed_step import FixedStepSolver
from invertible.solvers.ode.leapfrog import AsynchronousLeapfrog
from invertible.solvers.ode.one_step import METHODS
from invertible.solvers.ode.reversible import ReversibleSolver
from invertible.solvers.ode.reversible_heun import ReversibleHeun
from tests.solvers.ode.fields import Net, of, pendulum, stored

pytestmark = pytest.mark.usefixtures("float64")

SOLVERS = {
    "midpoint": lambda n: ReversibleSolver("midpoint", n),
    "rk4": lambda n: ReversibleSolver("rk4", n),
    "dopri5": lambda n: ReversibleSolver("dopri5", n),
    "coupling 1": lambda n: ReversibleSolver("midpoint", n, coupling=1.0),
    "leapfrog": AsynchronousLeapfrog,
    "damped leapfrog": lambda n: AsynchronousLeapfrog(n, damping=1 - 2 / (n + 5)),
    "Heun": ReversibleHeun,
}
ORDERS = {name: method.order for name, method in METHODS.items()}
EVERY = pytest.mark.parametrize("make", SOLVERS.values(), ids=SOLVERS)


def gradients(y: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of a loss that weighs every number of y in its own way."""
    return torch.autograd.grad((y.sin() * torch.linspace(1, 2, y.numel()).view_as(y)).sum(), inputs)


def worst(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Largest relative distance."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


def both(solver: AlgebraicallyReversible, net: Net, x: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Solution and gradients of the solver, and of its steps stored."""
    parameters, found = tuple(net.parameters()), []
    for stores in (False, True):
        own = x.clone().requires_grad_()
        if stores:
            (y,) = stored(solver, of(net), (own,), 0.2, -0.9)
        else:
            (y,), _ = solver.solve(of(net), (own,), 0.2, -0.9, parameters)
        found.append((y.detach(), *gradients(y, (own, *parameters))))
    return found[0], found[1]


def peak_bytes(call: Callable[[], object]) -> int:
    """The allocator's high water during a call, above what was allocated before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak


def order(make, counts: tuple[int, int]) -> float:
    """Observed, from two numbers of steps, on a field that does not contract."""
    x = torch.tensor([[0.5, 0.0], [1.0, -0.4]])
    (exact,), _ = FixedStepSolver("dopri5", 400).solve(pendulum, (x,), 0.0, 2.0)
    errors = [float((make(n).solve(pendulum, (x,), 0.0, 2.0)[0][0] - exact).norm()) for n in counts]
    return math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0])


@pytest.mark.parametrize("method", METHODS)
def test_one_step_methods_converge_with_their_order(method: str) -> None:
    assert order(lambda n: FixedStepSolver(method, n), (20, 40)) == pytest.approx(ORDERS[method], abs=0.35)


@pytest.mark.parametrize("coupling", [None, 1.0])
@pytest.mark.parametrize("method", METHODS)
def test_the_reversible_form_keeps_the_order(method: str, coupling: float | None) -> None:
    found = order(lambda n: ReversibleSolver(method, n, coupling=coupling), (32, 64))
    assert found == pytest.approx(ORDERS[method], abs=0.35)


@pytest.mark.parametrize("make", [AsynchronousLeapfrog, ReversibleHeun])
def test_leapfrog_and_heun_have_order_two(make) -> None:
    assert order(make, (40, 80)) == pytest.approx(2, abs=0.2)


@EVERY
def test_steps_walked_back_arrive_at_the_beginning(make) -> None:
    solver, net, x = make(50), Net(), torch.randn(4, 3)
    first = pair = solver.begin(of(net), 0.0, (x,))
    shears = [shear for index in range(50) for shear in solver.shears(index, 0.0, 0.02)]
    for shear in shears:
        pair = shear.run(of(net), pair, (x.dtype,))
    assert float((pair.first[0] - x).detach().norm()) > 0.1
    for shear in reversed(shears):
        pair = shear.invert(of(net), pair, (x.dtype,))
    for a, b in zip(pair, first, strict=True):
        torch.testing.assert_close(a[0], b[0], rtol=1e-12, atol=1e-12)


@EVERY
@pytest.mark.parametrize("steps", [1, 10, pytest.param(300, marks=pytest.mark.slow)])
def test_solution_and_gradients_are_those_of_backpropagation(make, steps: int) -> None:
    found, expected = both(make(steps), Net(), torch.randn(4, 3))
    assert torch.equal(found[0], expected[0])
    assert worst(found[1:], expected[1:]) < 1e-13


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("leapfrog", 1000),
        *(pytest.param(name, 1000, marks=pytest.mark.slow) for name in SOLVERS if name != "leapfrog"),
        *(pytest.param(name, 10_000, marks=pytest.mark.slow) for name in ("leapfrog", "midpoint")),
    ],
)
def test_gradients_at_many_steps(name: str, steps: int) -> None:
    found, expected = both(SOLVERS[name](steps), Net(gain=3.0), torch.randn(2, 3))
    assert worst(found[1:], expected[1:]) < 1e-12


@EVERY
def test_memory_does_not_grow_with_the_steps(make) -> None:
    net, x = Net(), torch.randn(2000, 3)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def train(steps: int) -> int:
        own = x.clone().requires_grad_()
        solve, parameters = make(steps).solve, tuple(net.parameters())
        return peak_bytes(lambda: solve(of(net), (own,), 0.0, 1.0, parameters)[0][0].sum().backward())

    few, many = train(10), train(40)
    assert many <= 1.02 * few
    own = x.clone().requires_grad_()
    assert peak_bytes(lambda: stored(make(40), of(net), (own,), 0.0, 1.0)[0].sum().backward()) > 3 * many


@EVERY
def test_evaluations_are_counted_and_the_way_back_takes_as_many(make) -> None:
    net, count = Net(), [0]

    def field(t, state):
        count[0] += 1
        return (net(t, state[0]),)

    solver, x = make(7), torch.randn(2, 3, requires_grad=True)
    (y,), evaluations = solver.solve(field, (x,), 0.0, 1.0, tuple(net.parameters()))
    assert count[0] == evaluations
    y.sum().backward()
    # The velocity at the beginning is evaluated to be compared, and once more for its gradient.
    assert count[0] - 2 * evaluations in (0, 1)


def test_the_default_coupling_holds_where_a_field_contracts() -> None:
    decay = lambda t, state: (-6 * state[0],)  # noqa: E731
    x, exact = torch.ones(1, 1), math.exp(-6)
    errors = [
        abs(float(ReversibleSolver("rk4", 40, coupling=coupling).solve(decay, (x,), 0.0, 1.0)[0][0]) - exact)
        for coupling in (None, 1.0)
    ]
    assert errors[0] < 1e-2 * errors[1]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ReversibleSolver("rk5"), "method"),
        (lambda: ReversibleSolver(steps=0), "steps"),
        (lambda: ReversibleSolver(coupling=0.0), "coupling"),
        (lambda: ReversibleSolver(coupling=1.5), "coupling"),
        (lambda: AsynchronousLeapfrog(damping=0.5), "damping"),
        (lambda: ReversibleHeun(tolerance=-1.0), "tolerance"),
        (lambda: ReversibleHeun(on_failure="ignore"), "on_failure"),
    ],
)
def test_arguments_out_of_range(make, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_a_field_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match="not broadcast"):
        ReversibleSolver().solve(lambda t, state: (state[0][:, :1],), (torch.ones(4, 2),), 0.0, 1.0)
