"""Gradients of reversible solvers in the surroundings that training has, and what catches a wrong reconstruction."""

import copy

import pytest
import torch
from torch import nn

from invertible.errors import ConfigError, NotInvertibleError
from invertible.solvers.ode.leapfrog import AsynchronousLeapfrog
from invertible.solvers.ode.reversible import ReversibleSolver
from invertible.solvers.ode.reversible_gradient import RecomputedWarning
from invertible.solvers.second_derivatives import SecondDerivativeError
from tests.solvers.ode.fields import Net, of, stored

pytestmark = pytest.mark.usefixtures("float64")
SOLVER = ReversibleSolver("midpoint", 12)


def solved(solver, field, x, parameters=()):
    """The solution over one unit of time."""
    return solver.solve(field, (x,), 0.0, 1.0, parameters)[0][0]


@pytest.mark.parametrize("steps", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_coupling_of_one_half_over_many_steps_is_caught_and_mended(steps: int) -> None:
    net, x = Net(), torch.randn(3, 3, requires_grad=True)
    solver, inputs = ReversibleSolver("euler", steps, coupling=0.5), (x, *net.parameters())
    with pytest.warns(RecomputedWarning, match="relative error"):
        found = torch.autograd.grad(solved(solver, of(net), x, inputs[1:]).sum(), inputs)
    expected = torch.autograd.grad(stored(solver, of(net), (x,), 0.0, 1.0)[0].sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_or_raises() -> None:
    net, x = Net(), torch.randn(3, 3, requires_grad=True)
    solver = ReversibleSolver("euler", 200, coupling=0.5, on_failure="raise")
    y = solved(solver, of(net), x, tuple(net.parameters()))
    with pytest.raises(NotInvertibleError, match="coupling") as caught:
        y.sum().backward()
    assert caught.value.sample is not None


def test_an_error_that_has_shrunk_again_at_the_beginning_is_caught_on_the_way() -> None:
    # Expands, then contracts: walking back an error grows to the middle and is gone at the beginning.
    axes = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
    x = (torch.tensor([[1.0, 1e-9], [0.5, -1e-9]]) @ axes).requires_grad_()

    def field(t, state):
        steady, fast = (state[0] @ axes).unbind(1)
        return (torch.stack((fast.sin() + 0 * steady, 140 * (0.5 - t) * fast.sin()), 1) @ axes,)

    solver = ReversibleSolver("rk4", 120)
    with pytest.warns(RecomputedWarning):
        (found,) = torch.autograd.grad(solved(solver, field, x).sum(), x)
    (expected,) = torch.autograd.grad(stored(solver, field, (x,), 0.0, 1.0)[0].sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 7, 16, 17])
@pytest.mark.parametrize("make", [lambda n: ReversibleSolver("heun", n), AsynchronousLeapfrog])
def test_recomputation_gives_the_same_gradients_for_any_number_of_steps(make, steps: int) -> None:
    net, x = Net(), torch.randn(3, 3, requires_grad=True)
    solver, inputs = make(steps), (x, *net.parameters())
    strict = type(solver)(**{**vars(solver), "tolerance": 1e-300})
    expected = torch.autograd.grad(stored(solver, of(net), (x,), 0.0, 1.0)[0].sum(), inputs)
    y = solved(strict, of(net), x, inputs[1:])
    # Nudged, so that no rounding luck lets the walk arrive to the bit.
    y.grad_fn.witnesses._left = {key: [z + 1e-3 for z in kept] for key, kept in y.grad_fn.witnesses._left.items()}
    if steps > 1:
        with pytest.warns(RecomputedWarning):
            found = torch.autograd.grad(y.sum(), inputs)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_parameters_that_are_no_leaves_and_depend_on_each_other() -> None:
    x, a = torch.randn(3, 2), torch.randn(2, 2, requires_grad=True)
    found = []
    for stores in (False, True):
        b = a.exp() / 3
        c = b @ a

        def field(t, state, b=b, c=c):
            return ((state[0] @ b).sin() + state[0] @ c + t * state[0] @ a,)

        y = stored(SOLVER, field, (x,), 0.0, 1.0)[0] if stores else solved(SOLVER, field, x, (a, b, c))
        found.append(torch.autograd.grad(y.sum() + b.sum(), a)[0])
    torch.testing.assert_close(*found, rtol=1e-11, atol=0)


def test_a_tensor_that_was_not_declared_is_an_error() -> None:
    net, x = Net(), torch.randn(3, 3, requires_grad=True)
    y = solved(SOLVER, of(net), x, tuple(net.parameters())[1:])
    with pytest.raises(ConfigError, match="parameters"):
        y.sum().backward()


def test_a_graph_serves_twice_but_not_for_second_derivatives() -> None:
    net, x = Net(), torch.randn(3, 3, requires_grad=True)
    y = solved(SOLVER, of(net), x, tuple(net.parameters()))
    (first,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    (again,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert torch.equal(first, again)
    with pytest.raises(SecondDerivativeError, match="FixedStepSolver"):
        again.sum().backward()


def test_a_parameter_that_was_changed_in_between_is_an_error() -> None:
    net, x = Net(), torch.randn(3, 3, requires_grad=True)
    y = solved(SOLVER, of(net), x, tuple(net.parameters()))
    with torch.no_grad():
        net.a.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("solver", [SOLVER, AsynchronousLeapfrog(12)])
def test_random_numbers_of_a_field_are_seen_again(solver) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3) / 3)

        def forward(self, t, x):
            return torch.tanh(x @ self.weight) * (1 + torch.randn_like(x))

    net, x = Noisy(), torch.randn(3, 3, requires_grad=True)

    def loss():
        torch.manual_seed(3)
        return solved(solver, of(net), x, (net.weight,)).sum()

    before = loss()
    after = torch.get_rng_state()
    (found,) = torch.autograd.grad(before, net.weight)
    assert torch.equal(after, torch.get_rng_state())
    with torch.no_grad():
        assert torch.equal(loss(), before)
    # The same seed is the same function: its central difference is the gradient.
    direction, step = torch.randn(3, 3), 1e-5
    with torch.no_grad():
        weight, values = net.weight.clone(), []
        for sign in (1, -1):
            net.weight.copy_(weight + sign * step * direction)
            values.append(loss())
    difference = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close((found * direction).sum(), difference, rtol=1e-7, atol=1e-9)


def test_autocast_of_the_forward_pass_holds_on_the_way_back() -> None:
    net = Net().float()
    x, seen = torch.randn(3, 3, dtype=torch.float32, requires_grad=True), []

    def field(t, state):
        seen.append(net.a(state[0]).dtype)
        return (net(t, state[0]).to(state[0].dtype),)

    with torch.autocast("cpu", torch.bfloat16):
        y = solved(SOLVER, field, x, tuple(net.parameters()))
        again = net(torch.zeros(()), x)
    y.sum().backward()
    assert set(seen) == {torch.bfloat16}
    assert y.dtype == torch.float32
    # No weight was cast without grad for others to find.
    assert torch.autograd.grad(again.float().sum(), net.a.weight)[0].abs().sum() > 0


def test_float32_is_carried_in_float64() -> None:
    net, x = Net(gain=2.0), torch.randn(16, 3)
    single = copy.deepcopy(net).float()
    solver = ReversibleSolver("midpoint", 300, on_failure="raise")
    inputs = [(x.clone().requires_grad_(), net), (x.float().requires_grad_(), single)]
    found = []
    for own, each in inputs:
        y = solved(solver, of(each), own, tuple(each.parameters()))
        assert y.dtype == own.dtype
        found.append(torch.autograd.grad(y.sum(), own)[0].double())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_states_of_several_tensors_some_of_which_start_at_zero() -> None:
    net, x = Net(), torch.randn(4, 3, requires_grad=True)

    def field(t, state):
        v = net(t, state[0])
        return v, v.square().sum(1)

    def run(solve):
        a, b = solve((x, torch.zeros(4)))
        return torch.autograd.grad(a.sum() + b.square().sum(), (x, *net.parameters()))

    solver, parameters = ReversibleSolver("rk4", 9, on_failure="raise"), tuple(net.parameters())
    found = run(lambda state: solver.solve(field, state, 0.0, 1.0, parameters).state)
    expected = run(lambda state: stored(solver, field, state, 0.0, 1.0))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_without_grad_under_transforms_and_in_forward_mode() -> None:
    net, x = Net(), torch.randn(4, 3)
    function = lambda v: solved(SOLVER, of(net), v[None], tuple(net.parameters()))[0]  # noqa: E731
    with torch.no_grad():
        assert not solved(SOLVER, of(net), x, tuple(net.parameters())).requires_grad
    jacobian = torch.func.vmap(torch.func.jacrev(function))(x)
    expected = torch.stack([torch.autograd.functional.jacobian(function, row) for row in x])
    torch.testing.assert_close(jacobian, expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        found = torch.autograd.forward_ad.unpack_dual(solved(SOLVER, of(net), dual)).tangent
    torch.testing.assert_close(found, jacobian.sum(2))


def test_an_empty_batch_passes() -> None:
    x = torch.randn(0, 3, requires_grad=True)
    net = Net()
    solved(SOLVER, of(net), x, tuple(net.parameters())).sum().backward()
    assert x.grad is not None
