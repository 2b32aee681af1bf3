"""Penalties against dense Jacobians, under every memory strategy, and with samples that break."""

import math
import warnings

import pytest
import torch
from torch import nn

from invertible.bijection import Bijection
from invertible.blocks import ActNorm, AffineCoupling, InvertibleConv1x1, InvertibleLinear, ReversibleResidual, Squeeze
from invertible.chain import Chain
from invertible.distributions import StandardLogistic
from invertible.errors import ConfigError, ShapeError
from invertible.stability.finite_differences import FiniteDifferencePenalty, changes
from invertible.stability.flow_penalty import FlowPenalty
from invertible.stability.penalties import Penalty
from tests.stability.maps import Conditioned, Hole, UnitBox

pytestmark = pytest.mark.usefixtures("float64")
BOTH = ("forward", "inverse")


def chain(features=4, memory="store", condition_features=0):
    """A chain far from the identity, with ActNorms that are initialised."""
    options = {"hidden": (12,), "condition_features": condition_features}
    net = Chain(
        ActNorm(features),
        AffineCoupling(features, **options),
        InvertibleLinear(features),
        AffineCoupling(features, flip=True, **options),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    net(torch.randn(64, features), torch.randn(64, condition_features) if condition_features else None)
    net.memory = memory
    return net


def jacobians(net, x, condition=None):
    """J_f(x) of every sample, with a graph."""

    def one(row, c):
        return net(row[None], None if c is None else c[None])[0][0]

    dims = (0, None if condition is None else 0)
    return torch.func.vmap(torch.func.jacrev(one), dims)(x, condition)


def dense(net, x, direction, condition=None):
    """mean |J|_F^2 of either map."""
    whole = jacobians(net, x, condition)
    matrices = whole if direction == "forward" else torch.linalg.inv(whole)
    return matrices.square().sum((1, 2)).mean()


def gradients(value, net):
    found = torch.autograd.grad(value, list(net.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(net.parameters(), found, strict=True)]


def flat(tensors):
    return torch.cat([each.flatten() for each in tensors])


@pytest.mark.parametrize("direction", BOTH)
@pytest.mark.parametrize("condition_features", [0, 3])
def test_expectation_and_gradient_are_those_of_the_frobenius_norm(direction, condition_features):
    net = chain(condition_features=condition_features)
    x = torch.randn(5, 4)
    condition = torch.randn(5, 3) if condition_features else None
    exact = dense(net, x, direction, condition)
    exact_gradient = flat(gradients(exact, net))
    penalty = FiniteDifferencePenalty(0.5, epsilon=1e-5, directions=direction, every=1)
    many = x.repeat(40, 1), None if condition is None else condition.repeat(40, 1)
    values, found = [], []
    for _ in range(50):
        value = penalty(net, *many)
        values.append(value.detach())
        found.append(flat(gradients(value, net)))
    mean, error = torch.stack(values).mean(), torch.stack(values).std() / math.sqrt(50)
    assert abs(mean - 0.5 * exact.detach()) < 4 * error
    assert error < 0.02 * exact
    # Of some 200 numbers, the largest deviation in units of its standard error.
    stacked = torch.stack(found)
    deviation = (stacked.mean(0) - 0.5 * exact_gradient).abs()
    noise = stacked.std(0) / math.sqrt(50)
    assert float((deviation / noise.clamp_min(1e-9)).max()) < 5
    assert float(noise.norm()) < 0.05 * float(exact_gradient.norm())


def test_both_is_the_sum_of_the_two():
    net, x = chain(), torch.randn(600, 4)
    both, *parts = (
        float(FiniteDifferencePenalty(1.0, epsilon=1e-4, directions=each, every=1)(net, x).detach())
        for each in ("both", *BOTH)
    )
    assert both == pytest.approx(sum(parts), rel=0.1)
    assert min(parts) > 0.15 * both


@pytest.mark.parametrize("size", [(2,), (5, 3), (2, 4, 4)])
def test_a_linear_map_is_estimated_without_bias_at_any_epsilon(size):
    """For y = 3x: |J|_F^2 = 9 D, |J^-1|_F^2 = D/9, and each single direction gives just that."""

    class Thrice(Bijection):
        def __init__(self):
            super().__init__()
            self.three = nn.Parameter(torch.tensor(3.0))

        def forward(self, x, condition=None):
            return x * self.three, x.new_zeros(len(x))

        def inverse(self, y, condition=None):
            return y / self.three, y.new_zeros(len(y))

    dimensions, x = math.prod(size), torch.randn(3, *size)
    for epsilon in (1e-3, 0.1, 10.0):
        value = FiniteDifferencePenalty(2.0, epsilon=epsilon, every=1)(Thrice(), x)
        assert float(value.detach()) == pytest.approx(2 * dimensions * (9 + 1 / 9), rel=1e-6)


def test_outputs_of_another_shape():
    net = Chain(Squeeze(), InvertibleConv1x1(4))
    value = FiniteDifferencePenalty(1.0, epsilon=1e-3, every=1)(net, torch.randn(20, 1, 4, 4))
    # Squeeze is an isometry and the linear map starts as a rotation: 16 + 16.
    assert float(value.detach()) == pytest.approx(32, rel=1e-6)


def test_directions_have_length_one_for_every_sample():
    penalty = FiniteDifferencePenalty(1.0, epsilon=0.3)
    shifts = penalty._shifts(torch.zeros(50, 3, 2), torch.Generator().manual_seed(0))
    assert torch.allclose(shifts.flatten(1).norm(dim=1), torch.full((50,), 0.3))
    assert float(shifts.mean(0).abs().max()) < 0.1


def residual(width=2):
    net = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, width))
    return net


@pytest.mark.parametrize("memory", ["checkpoint", "recursive", "reversible", "20kB"])
@pytest.mark.parametrize("kind", ["coupling", "residual with dropout"])
def test_memory_strategies_give_the_gradients_of_stored_activations(memory, kind):
    net = chain() if kind == "coupling" else Chain(*[ReversibleResidual(residual(), residual()) for _ in range(3)])
    x = torch.randn(7, 4)
    found = []
    for each in ("store", memory):
        net.memory = each
        torch.manual_seed(0)
        value = net(x)[0].square().mean() + FiniteDifferencePenalty(0.1, epsilon=1e-3, every=1)(net, x)
        found.append(flat(gradients(value, net)))
    assert float(found[0].abs().max()) > 0.01
    assert torch.allclose(found[0], found[1], rtol=1e-6, atol=1e-8)


def test_exact_mode_through_its_grid():
    """On the grid of 2^-20 a difference of 0.1 is right to 1e-5; the additive chain's gradients follow."""
    net = Chain(*[ReversibleResidual(residual(), residual()) for _ in range(3)]).eval()
    x, found = torch.randn(7, 4), []
    for memory in ("store", "exact"):
        net.memory = memory
        found.append(flat(gradients(FiniteDifferencePenalty(0.1, every=1)(net, x), net)))
    assert torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_the_map_comes_out_as_it_was():
    net = Chain(ActNorm(4), ReversibleResidual(nn.BatchNorm1d(2), residual()))
    x = torch.randn(9, 4)
    net(x)
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [each.training for each in net.modules()]
    state = torch.get_rng_state()
    FiniteDifferencePenalty(1.0, every=1)(net, x).backward()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [each.training for each in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


# When it is due.


def test_every_nth_call_and_every_nth_step():
    net, x = chain(), torch.randn(3, 4)
    by_call = FiniteDifferencePenalty(1.0, every=3)
    assert [float(by_call(net, x).detach()) > 0 for _ in range(7)] == [True, False, False, True, False, False, True]
    by_step = FiniteDifferencePenalty(1.0, every=4)
    assert [step for step in range(9) if float(by_step(net, x, step=step).detach())] == [0, 4, 8]
    z, log_det = net(x)
    flow = FlowPenalty(1.0, every=2)
    assert [float(flow(z, log_det).detach()) != 0 for _ in range(4)] == [True, False, True, False]


def test_a_call_that_is_not_due_does_not_run_the_map():
    class Untouchable(Bijection):
        def forward(self, x, condition=None):
            raise AssertionError("was run")

    for penalty in (FiniteDifferencePenalty(1.0, every=5), FlowPenalty(1.0, every=5)):
        assert float(penalty.of(Untouchable(), torch.randn(3, 2), step=4)) == 0


def seeded():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("source", [lambda: 5, lambda: None, seeded], ids=["seed", "default", "generator"])
def test_a_resumed_loop_repeats_the_directions(source):
    net, x = chain(), torch.randn(3, 4)
    whole = FiniteDifferencePenalty(1.0, every=2, generator=source())
    values = [float(whole(net, x).detach()) for _ in range(8)]
    assert len(set(values)) == 5
    first = FiniteDifferencePenalty(1.0, every=2, generator=source())
    begun = [float(first(net, x).detach()) for _ in range(3)]
    second = FiniteDifferencePenalty(1.0, every=2, generator=source())
    second.load_state_dict(first.state_dict())
    assert begun + [float(second(net, x).detach()) for _ in range(5)] == values
    other = FiniteDifferencePenalty(1.0, every=2, generator=99)
    assert float(other(net, x).detach()) != values[0]


# Samples that break.


def test_samples_without_an_inverse_are_left_out_and_counted():
    """`Hole` loses samples beyond 2 on the way back: their gradient must be no part of the others'."""
    net = Chain(AffineCoupling(2, hidden=(4,)), Hole())
    x = torch.tensor([[0.5, 1.0], [3.0, 0.0], [-1.0, 0.3], [5.0, 0.0]])
    penalty = FiniteDifferencePenalty(1.0, every=1)
    with pytest.warns(UserWarning, match=r"FiniteDifferencePenalty: 2 of 4 samples left out: .*not finite"):
        value = penalty(net, x)
    assert penalty.skipped == 2
    assert all(bool(each.isfinite().all()) for each in gradients(value, net))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        penalty(net, x)
    assert penalty.skipped == 4
    again = FiniteDifferencePenalty(1.0, every=1)
    again.load_state_dict(penalty.state_dict())
    assert again.skipped == 4


def test_those_that_are_left_count_as_if_alone():
    net = Chain(Hole(), AffineCoupling(2, hidden=(4,)))
    x = torch.tensor([[0.5, 1.0], [3.0, 0.0], [-1.0, 0.3]])
    shifts = 1e-3 * torch.randn(3, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = changes(net.inverse, x, None, shifts)
    alone = changes(net.inverse, x[found.rows], None, shifts[found.rows])
    assert 0 < len(found.rows) < 3
    assert torch.allclose(found.values, alone.values)


def test_a_step_out_of_the_domain_is_left_out_with_the_reason():
    x = torch.cat((torch.full((4, 2), 0.5), torch.full((3, 2), 1.0)))
    penalty = FiniteDifferencePenalty(1.0, directions="forward", every=1)
    with pytest.warns(UserWarning, match=r"UnitBox: expected x in \[0, 1\]"):
        value = penalty(UnitBox(), x)
    assert 0 < penalty.skipped <= 3
    assert float(value) == pytest.approx(2)


def test_nothing_left_is_zero_and_said():
    class Nothing(Conditioned):
        def forward(self, x, condition=None):
            return x * math.nan, x[:, 0]

    net = Nothing(0)
    for penalty in (FiniteDifferencePenalty(1.0, every=1), FlowPenalty(1.0)):
        with pytest.warns(UserWarning, match="3 of 3 samples left out"):
            assert float(penalty.of(net, torch.randn(3, 2))) == 0
        assert penalty.skipped == 3


def test_an_epsilon_below_rounding_is_said():
    x = torch.full((3, 2), 1e6, dtype=torch.float32)
    with pytest.warns(UserWarning, match="epsilon is below the rounding of x"):
        FiniteDifferencePenalty(1.0, epsilon=1e-6, directions="forward", every=1)(Conditioned(2), x, torch.zeros(3, 2))


# The flow penalty.


@pytest.mark.parametrize("per_dim", [False, True])
def test_flow_penalty_is_the_negative_log_likelihood(per_dim):
    net, x = chain(), torch.randn(11, 4)
    z, log_det = net(x.clone())
    normal = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(4), 1.0), 1)
    expected = -(normal.log_prob(net(x)[0]) + jacobians(net, x).det().abs().log()).mean() * 0.3 / (4 if per_dim else 1)
    value = FlowPenalty(0.3, per_dim=per_dim)(z, log_det)
    assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    assert torch.allclose(flat(gradients(value, net)), flat(gradients(expected, net)))
    assert float(FlowPenalty(0.3, per_dim=per_dim).of(net, x).detach()) == pytest.approx(float(value.detach()))


def test_flow_penalty_with_another_base():
    net, x = chain(), torch.randn(11, 4)
    z, log_det = net(x)
    expected = float(-(StandardLogistic((4,)).log_prob(z) + log_det).mean().detach())
    assert float(FlowPenalty(1.0, StandardLogistic((4,)))(z, log_det).detach()) == pytest.approx(expected)
    with pytest.raises(ConfigError, match=r"base.log_prob\(z\) of shape \(11,\), got \(11, 4\).*Independent"):
        FlowPenalty(1.0, torch.distributions.Normal(0.0, 1.0))(z, log_det)


@pytest.mark.parametrize("memory", ["checkpoint", "reversible"])
def test_flow_penalty_under_memory_strategies(memory):
    net, x, found = chain(), torch.randn(11, 4), []
    for each in ("store", memory):
        net.memory = each
        found.append(flat(gradients(FlowPenalty(1.0)(*net(x)), net)))
    assert torch.allclose(*found, rtol=1e-8)


def test_flow_penalty_leaves_out_what_is_not_finite():
    z, log_det = torch.randn(4, 2), torch.tensor([0.0, math.inf, 1.0, math.nan])
    penalty = FlowPenalty(1.0)
    with pytest.warns(UserWarning, match="FlowPenalty: 2 of 4 samples left out"):
        value = penalty(z, log_det)
    kept = FlowPenalty(1.0)(z[[0, 2]], log_det[[0, 2]])
    assert (penalty.skipped, float(value)) == (2, pytest.approx(float(kept)))


def test_flow_penalty_in_a_pass_of_its_own_keeps_the_broken_out_of_the_graph():
    net = Chain(AffineCoupling(2, hidden=(4,)), Hole().inverted)
    x = torch.tensor([[0.5, 1.0], [3.0, 0.0], [-1.0, 0.3]])
    with pytest.warns(UserWarning, match="1 of 3 samples left out"):
        value = FlowPenalty(1.0).of(net, x)
    assert all(bool(each.isfinite().all()) for each in gradients(value, net))


# Precision, and wrong use.


def test_under_autocast_the_value_is_that_of_float32():
    net, x = chain().float(), torch.randn(8, 4, dtype=torch.float32)
    plain = FiniteDifferencePenalty(1.0, every=1)(net, x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = FiniteDifferencePenalty(1.0, every=1)(net, x)
    assert torch.equal(plain, mixed)


def test_float32_agrees_with_float64():
    net, x = chain(), torch.randn(64, 4)
    shifts = 0.1 * nn.functional.normalize(torch.randn(64, 4), dim=1)
    exact = changes(net.inverse, x, None, shifts).values
    single = changes(net.float().inverse, x.float(), None, shifts.float()).values
    assert torch.allclose(single.double(), exact, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_half_precision_is_refused(dtype):
    with pytest.raises(ShapeError, match=r"expected x in float32 or float64.*x.float\(\)"):
        FiniteDifferencePenalty(1.0)(chain(), torch.ones(3, 4, dtype=dtype))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": 0.0}, r"FiniteDifferencePenalty: expected a weight > 0, got 0.0"),
        ({"weight": math.nan}, "expected a weight > 0, got nan"),
        ({"epsilon": -1.0}, "expected epsilon > 0, got -1.0"),
        ({"epsilon": math.inf}, "expected epsilon > 0, got inf"),
        ({"every": 0}, "expected every to be an integer of at least 1, got 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        FiniteDifferencePenalty(**{"weight": 1.0, **arguments})


def test_wrong_directions(unchecked_types):
    with unchecked_types(), pytest.raises(ConfigError, match="'both', 'forward' or 'inverse', got 'backward'"):
        FiniteDifferencePenalty(1.0, directions="backward")


def test_wrong_latents():
    with pytest.raises(ShapeError, match=r"log_det of shape \(batch,\).*\(3, 2\) and \(3, 2\)"):
        FlowPenalty(1.0)(torch.ones(3, 2), torch.ones(3, 2))


def test_both_are_penalties():
    assert isinstance(FiniteDifferencePenalty(1.0), Penalty)
    assert isinstance(FlowPenalty(1.0), Penalty)
