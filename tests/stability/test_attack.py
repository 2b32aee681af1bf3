"""Attacks on invertibility: they find what is known to be there, stay in their ball, and leave no trace."""

import copy
import math

import pytest
import torch
from torch import nn

import invertible as inv
from invertible.errors import ConfigError, DomainError, ShapeError
from invertible.stability.ascent import Climber
from invertible.stability.attack import attack
from invertible.stability.projection import Ball
from tests.stability.maps import Conditioned, GivesUp, Hole, Remembers, Shift, UnitBox
from tests.tools import randomise


class Wall(inv.Bijection):
    """y = x e^(-s), s steep in |x_0|: its inverse overflows in float32 where |x_0| > 1."""

    def forward(self, x, condition=None):
        s = self._s(x[:, :1])
        return torch.cat((x[:, :1], x[:, 1:] * (-s).exp()), 1), -s[:, 0] * (x.shape[1] - 1)

    def inverse(self, y, condition=None):
        s = self._s(y[:, :1])
        return torch.cat((y[:, :1], y[:, 1:] * s.exp()), 1), s[:, 0] * (y.shape[1] - 1)

    def _s(self, a):
        return 110 * a.abs()


class FixedPoint(inv.Bijection):
    """y = x + g(x), Lip(g) < 1/2; the inverse iterates x <- y - g(x), with a graph or without one."""

    def __init__(self, features, iterations=60, *, unrolled=False):
        super().__init__()
        first, second = nn.Linear(features, 16), nn.Linear(16, features)
        with torch.no_grad():
            for layer in (first, second):
                layer.weight.div_(torch.linalg.matrix_norm(layer.weight, 2) / 0.5**0.5)
        self.net = nn.Sequential(first, nn.Tanh(), second)
        self.iterations, self.unrolled = iterations, unrolled

    def forward(self, x, condition=None):
        return x + self.net(x), x.new_zeros(len(x))

    def inverse(self, y, condition=None):
        with torch.set_grad_enabled(self.unrolled and torch.is_grad_enabled()):
            x = y
            for _ in range(self.iterations):
                x = y - self.net(x)
        return x, y.new_zeros(len(y))


class Narrowing(inv.Bijection):
    """y_2 = x_2 exp(-k exp(-|x_1 - c|^2)): the inverse multiplies most where x_1 = c."""

    def __init__(self, c=0.4, k=9.0):
        super().__init__()
        self.c, self.k = c, k

    def _s(self, a):
        return self.k * torch.exp(-8 * (a - self.c).square())

    def forward(self, x, condition=None):
        s = self._s(x[:, :1])
        return torch.cat((x[:, :1], x[:, 1:] * (-s).exp() + 1), 1), -s[:, 0]

    def inverse(self, y, condition=None):
        s = self._s(y[:, :1])
        return torch.cat((y[:, :1], (y[:, 1:] - 1) * s.exp()), 1), s[:, 0]


@pytest.fixture
def flow():
    torch.manual_seed(0)
    made = inv.models.realnvp(6, layers=4, hidden=(16,))
    made.bijection(torch.randn(64, 6))
    return randomise(made).eval()


@pytest.mark.parametrize("objective", ["amplification", "both"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_point_where_the_inverse_multiplies_most_is_found(norm, objective):
    x = torch.tensor([[0.0, 1.0], [0.1, 0.5], [0.8, -1.0]])
    found = attack(Narrowing(), x, 0.5, 40, norm=norm, objective=objective, restarts=2)
    # Rounding of y, eps/2 |y| at most, times e^k at the peak, which every ball holds.
    assert bool((found.error > 20 * found.start_error.clamp(min=1e-8)).all()), found
    assert found.worst > 0.05 * torch.finfo(torch.float32).eps * math.exp(9.0)
    assert bool(((found.worst_x[:, 0] - 0.4).abs() < 0.15).all()), found.worst_x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_stay_in_the_ball_and_within_limits(flow, norm, dtype):
    x = torch.rand(5, 6, dtype=dtype)
    found = attack(flow.to(dtype), x, 0.3, 12, 0.2, norm=norm, limits=(0.0, 1.0))
    assert bool((found.distance <= 0.3 * (1 + 4e-7)).all())
    assert bool(((found.worst_x >= 0) & (found.worst_x <= 1)).all())
    assert found.worst_x.dtype == dtype
    moved = found.error > found.start_error
    assert bool(moved.any())
    assert bool((found.distance[moved] > 0.01).all())


def test_figures_are_those_of_the_points(flow):
    x = torch.randn(7, 6)
    found = attack(flow, x, 0.2, 10, restarts=2)
    with torch.no_grad():
        back = flow.bijection.inverse(flow.bijection(found.worst_x)[0])[0]
    size = x.double().norm(dim=1)
    expected = (back.double() - found.worst_x.double()).norm(dim=1) / torch.maximum(size, size.median())
    torch.testing.assert_close(found.error, expected, rtol=0.3, atol=1e-8)
    torch.testing.assert_close(found.reconstruction, back, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.maximum(found.history.amax(0), found.start_error), found.error)
    assert found.history.shape == (11, 7)
    assert bool((found.first_non_finite == -1).all())
    assert "7 samples" in str(found)


def test_a_lost_sample_is_kept_where_it_was_lost_and_the_others_go_on():
    x = torch.tensor([[0.9, 1.0], [0.1, 1.0], [-0.7, 1.0]])
    found = attack(Wall(), x, 0.2, 60)
    lost = found.first_non_finite
    # 110 |x_0| overflows e^s and underflows e^-s near 0.8 and above; in the ball of the second sample nowhere.
    assert lost[0] >= 0
    assert lost[1] == -1
    assert found.error[0] == math.inf
    assert math.isfinite(found.error[1])
    assert bool(found.history[lost[0] :, 0].isinf().all())
    assert bool(found.history[: lost[0], 0].isfinite().all())
    assert not bool(found.reconstruction[0].isfinite().all())
    assert found.non_finite == int((lost >= 0).sum())
    assert lost[found.worst_index] == lost[lost >= 0].min()
    assert "not finite after" in str(found)


def test_x_itself_counts():
    found = attack(Hole(), torch.tensor([[1.6, 0.0], [0.0, 0.0]]), 1e-3, 4)
    assert found.first_non_finite.tolist() == [0, -1]
    assert found.start_error[0] == found.error[0] == math.inf
    # An error that falls away from x: the worst point is x.
    found = attack(Narrowing(c=0.0, k=13.0), torch.tensor([[0.0, 0.3]]), 0.9, 1, 1e-6, restarts=1)
    assert found.error[0] == max(float(found.start_error[0]), float(found.history.max()))


def test_rows_do_not_contaminate_each_other():
    """Samples that are lost change nothing for the others: their searches equal those without them."""
    start = torch.tensor([[0.2, 1.0], [-0.3, 0.7]])
    bad = torch.tensor([[0.95, 1.0], [0.99, 2.0]])
    climber = Climber(Wall())
    alone = climber.error(start, None)
    mixed = climber.error(torch.cat((start, bad)), None)
    assert not bool(mixed.reconstruction[2:].isfinite().all(1).any())
    torch.testing.assert_close(mixed.gradient[:2], alone.gradient, rtol=0, atol=0)
    probe = torch.full((4, 2), 0.5**0.5)
    alone = climber.amplification(start, None, probe[:2])
    mixed = climber.amplification(torch.cat((start, bad)), None, probe)
    assert bool(mixed.gradient[:2].isfinite().all())
    torch.testing.assert_close(mixed.gradient[:2], alone.gradient)
    torch.testing.assert_close(mixed.probe[:2], alone.probe)
    assert bool(mixed.probe.isfinite().all())


def test_an_inverse_that_raises_is_a_sample_that_is_lost():
    x = torch.tensor([[1.2, 0.0], [0.0, 0.0], [1.49, 0.0]])
    for f in (GivesUp(), Hole()):
        found = attack(f, x, 0.35, 40, restarts=2)
        assert found.first_non_finite[1] == -1, f
        assert found.first_non_finite[2] >= 0, f
        assert found.error[2] == math.inf
        assert found.error[1] < 1e-6


def test_a_gradient_that_is_not_finite_gives_a_random_step():
    class Blind(Shift):
        def inverse(self, y, condition=None):
            x, log_det = super().inverse(y)
            # sqrt has an infinite slope at 0: a finite value whose gradient is NaN.
            return x + 0 * (0 * x).sqrt(), log_det

    x = torch.rand(4, 3)
    found = attack(Blind(), x, 0.1, 8, objective="error")
    assert bool((found.random_steps == 8).all())
    assert bool(found.error.isfinite().all())
    assert "random directions" in str(found)


def test_exact_maps_have_nothing_to_find():
    x = torch.randint(0, 8, (4, 3)).float()
    found = attack(Shift(), x, 0.25, 8)
    assert found.worst < 1e-6
    assert found.start_error.max() == 0


@pytest.mark.parametrize("inverse_gradient", ["auto", "implicit"])
def test_an_inverse_without_graph_is_differentiated_implicitly(inverse_gradient):
    """With an iteration that stops too early, the error depends on x by a smooth function: its gradient is known."""
    torch.manual_seed(0)
    f = FixedPoint(5).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    for p in f.parameters():
        p.requires_grad_(False)
    found = Climber(f, inverse_gradient)._back
    leaf = x.clone().requires_grad_()
    y = f(leaf)[0]
    back = found(y, None)
    w = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(back, leaf, w, retain_graph=True)
    # In exact arithmetic f^-1(f(x)) = x, so that the product is w itself.
    torch.testing.assert_close(gradient, w, rtol=5e-3, atol=5e-3)
    (through_y,) = torch.autograd.grad(back, y, w)
    dense = torch.stack([torch.autograd.functional.jacobian(lambda each: f(each[None])[0][0], row) for row in x])
    torch.testing.assert_close(through_y, torch.linalg.solve(dense.mT, w), rtol=5e-3, atol=5e-3)


def test_unrolled_and_implicit_gradients_agree():
    torch.manual_seed(0)
    f = FixedPoint(5, unrolled=True).double()
    y = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(6, 5, dtype=torch.float64)
    products = [
        torch.autograd.grad(Climber(f, way)._back(y, None), y, w, retain_graph=True)[0]
        for way in ("autograd", "implicit")
    ]
    torch.testing.assert_close(*products, rtol=5e-3, atol=5e-3)


def test_a_fixed_point_inverse_is_attacked():
    torch.manual_seed(0)
    found = attack(FixedPoint(5), torch.randn(6, 5), 0.5, 20)
    assert found.worst < 1e-5
    # Where rounding gives back x itself, the error has no gradient; the amplification has one everywhere.
    assert bool((attack(FixedPoint(5), torch.randn(6, 5), 0.5, 20, objective="amplification").random_steps == 0).all())
    too_few = attack(FixedPoint(5, iterations=4), torch.randn(6, 5), 0.5, 20)
    assert bool((too_few.error > too_few.start_error).all())
    with pytest.raises(ConfigError, match="without a graph"):
        attack(FixedPoint(5), torch.randn(2, 5), 0.5, 2, inverse_gradient="autograd")


def test_the_model_is_undisturbed():
    f = inv.Chain(Remembers(), inv.ActNorm(4), inv.AffineCoupling(4), memory="reversible").train()
    with torch.no_grad():
        f(torch.randn(8, 4))
    f[2].net.requires_grad_(False)
    x = torch.randn(4, 4)
    before, random = copy.deepcopy(f.state_dict()), torch.get_rng_state()
    memory, log, flags = f.memory, f.memory_log, [p.requires_grad for p in f.parameters()]
    attack(f, x, 0.1, 3, restarts=2)
    assert all(torch.equal(value, before[name]) for name, value in f.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in f.parameters())
    assert [p.requires_grad for p in f.parameters()] == flags
    assert f.training
    assert f[1].training
    assert f.memory is memory
    assert f.memory_log is log


def test_seeds_repeat_and_differ(flow):
    x = torch.randn(3, 6)
    first, again, other = (attack(flow, x, 0.2, 5, restarts=2, generator=seed) for seed in (1, 1, 2))
    assert torch.equal(first.worst_x, again.worst_x)
    assert torch.equal(first.history, again.history)
    assert not torch.equal(first.worst_x, other.worst_x)


def test_restarts_keep_the_worst():
    x = torch.tensor([[0.0, 1.0], [0.2, -1.0]])
    seen = []
    one = attack(Narrowing(), x, 0.5, 10, generator=3, restarts=1)
    many = attack(Narrowing(), x, 0.5, 10, generator=3, restarts=4, progress=lambda *at: seen.append(at))
    assert bool((many.error >= one.error).all())
    assert seen[-1] == (44, 44)
    assert bool((many.restart < 4).all())


def test_conditions_go_along_and_stay():
    x, condition = torch.randn(4, 3), torch.randn(4, 3)
    before = condition.clone()
    found = attack(Conditioned(3), x, 0.1, 4, condition=condition)
    assert found.error.shape == (4,)
    assert torch.equal(condition, before)
    with pytest.raises(ShapeError, match="condition of 4 rows"):
        attack(Conditioned(3), x, 0.1, 4, condition=condition[:2])


def test_outputs_of_another_shape():
    torch.manual_seed(0)
    f = inv.Chain(inv.Squeeze(), inv.AffineCoupling(4, spatial_dims=2), inv.Flatten((4, 2, 2)))
    found = attack(randomise(f), torch.rand(3, 1, 4, 4), 0.1, 6, norm="l2", restarts=2)
    assert found.worst_x.shape == (3, 1, 4, 4)
    assert bool(found.error.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_measured(dtype):
    torch.manual_seed(0)
    f = randomise(inv.Chain(inv.AffineCoupling(4), inv.Permutation(4), inv.AffineCoupling(4))).to(dtype)
    found = attack(f, torch.randn(3, 4).to(dtype), 0.3, 6, restarts=2)
    assert found.worst_x.dtype == dtype
    assert bool((found.error > 1e-5).all())
    assert bool((found.error >= found.history[0]).all())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"radius": -1.0}, ConfigError, "expected radius > 0 and finite, got -1.0"),
        ({"radius": math.nan}, ConfigError, "expected radius"),
        ({"steps": 0}, ConfigError, "expected steps to be an integer of at least 1, got 0"),
        ({"step_size": 0.0}, ConfigError, "expected step_size > 0"),
        ({"norm": "l1"}, ConfigError, "'linf' or 'l2', got 'l1'"),
        ({"restarts": 0}, ConfigError, "expected restarts"),
        ({"objective": "loss"}, ConfigError, "expected objective"),
        ({"inverse_gradient": "yes"}, ConfigError, "expected inverse_gradient"),
        ({"limits": (1.0, 0.0)}, ConfigError, "low < high"),
        ({"limits": (0.0, 0.1)}, DomainError, "within limits"),
        ({"seed": 1}, ConfigError, "options among restarts, objective"),
        ({"x": torch.tensor([[math.nan, 0.0]])}, DomainError, "samples \\[0\\]"),
        ({"x": torch.zeros(0, 2)}, ShapeError, "not empty"),
        ({"x": torch.zeros(2, 2, dtype=torch.long)}, ShapeError, "floating-point"),
        ({"f": nn.Linear(2, 2)}, ConfigError, "to be a Bijection or a Flow"),
        ({"f": UnitBox()}, DomainError, "Give limits"),
    ],
    ids=lambda value: "" if not isinstance(value, dict) else next(iter(value)),
)
def test_errors(change, error, message):
    arguments = {"f": Shift(), "x": torch.full((2, 2), 0.99), "radius": 0.1, "steps": 3}
    with pytest.raises(error, match=message):
        attack(**(arguments | change))


def test_limits_keep_a_search_in_the_domain():
    assert attack(UnitBox(), torch.full((2, 2), 0.99), 0.1, 3, limits=(0.0, 1.0)).worst < 1e-6


# Balls.


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_are_uniform_in_the_ball(norm):
    ball, centre = Ball(norm, 2.0), torch.zeros(20000, 3, dtype=torch.float64)
    shift = ball.start(centre, torch.Generator().manual_seed(0))
    size = torch.linalg.vector_norm(shift, ord=math.inf if norm == "linf" else 2, dim=1)
    assert bool((size <= 2 * (1 + 1e-12)).all())
    # (|z| / radius)^3 is uniform for uniform points of a ball in three dimensions, of either norm.
    share = torch.histc((size / 2) ** 3, 10, 0, 1) / len(size)
    torch.testing.assert_close(share, torch.full_like(share, 0.1), rtol=0, atol=0.01)
    torch.testing.assert_close(shift.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=0.03)


def test_the_way_back_is_the_shortest():
    x = torch.randn(50, 4, dtype=torch.float64)
    z = x + 3 * torch.randn_like(x)
    ball = Ball("l2", 0.7)
    back = ball.back(z, x)
    assert bool(((back - x).norm(dim=1) <= 0.7 * (1 + 1e-12)).all())
    for _ in range(50):
        other = ball.start(x, torch.Generator().manual_seed(1))
        assert bool(((z - other).norm(dim=1) >= (z - back).norm(dim=1) - 1e-12).all())


def test_directions_of_any_size_have_unit_steps():
    direction = torch.tensor([[3e30, 4e30], [3e-40, 4e-40], [0.0, 0.0]])
    step = Ball("l2", 1.0).step(direction, 0.5)
    torch.testing.assert_close(step, torch.tensor([[0.3, 0.4], [0.3, 0.4], [0.0, 0.0]]), rtol=1e-3, atol=0)
