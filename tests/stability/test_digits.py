import copy
import math

import pytest
import torch

from invertible.bijection import Bijection
from invertible.blocks import AdditiveCoupling, AffineCoupling, InvertibleLinear, Permutation, SplineCoupling
from invertible.chain import Chain, set_memory
from invertible.distributions import StandardNormal
from invertible.errors import ConfigError, ShapeError
from invertible.flow import Flow
from invertible.stability.digits import trusted_digits
from invertible.stability.sensitivity import Roundings
from invertible.stability.spectrum import singular_values
from tests.registry import make
from tests.stability.maps import Conditioned, Drift, GivesUp, Hole, Squash, UnitBox
from tests.stability.test_products import Iterated
from tests.tools import randomise

EPS = torch.finfo(torch.float32).eps
METHODS = ["adjoint", "neighbours"]


def random_chain(kind, depth, gain):
    """A chain whose conditioners' and linear layers' weights are scaled by a gain."""
    blocks = []
    for index in range(depth):
        if kind != "affine":
            blocks.append(InvertibleLinear(6))
        options = {"hidden": (16,), "flip": index % 2 == 1}
        if kind == "additive":
            blocks.append(AdditiveCoupling(6, **options))
        elif kind == "spline":
            blocks.append(SplineCoupling(6, **options))
        else:
            order = "glow" if kind == "glow" else "realnvp"
            blocks.append(AffineCoupling(6, scale="sigmoid", order=order, **options))
    chain = Chain(*blocks)
    with torch.no_grad():
        for parameter in chain.parameters():
            wide = 0.1 if parameter.shape == (6, 6) else 1.0
            parameter.add_(wide * gain * torch.randn_like(parameter) / math.sqrt(max(4, parameter[0].numel())))
    return chain


def exact_inverse(f, y):
    with torch.no_grad():
        return copy.deepcopy(f).double().inverse(y.double())[0]


def errors(found, exact):
    """True errors, infinite where the computed inverse is not finite."""
    return torch.linalg.vector_norm((found.x.double() - exact).flatten(1), dim=1).nan_to_num(math.inf, math.inf)


@pytest.mark.parametrize("kind", ["affine", "glow", "additive", "spline"])
def test_bounds_hold_and_are_not_far_off(kind):
    ratios, failed, conditions = [], 0, []
    for depth in (2, 6, 12):
        for gain in (0.5, 1.0, 1.5):
            f = random_chain(kind, depth, gain)
            with torch.no_grad():
                y = f(torch.randn(16, 6))[0]
            exact = exact_inverse(f, y)
            found = trusted_digits(f, y)
            true = errors(found, exact)
            failed += int((true > found.error).sum())
            kept = found.error.isfinite() & (true > 0)
            ratios.append((found.error / true)[kept])
            conditions.append(singular_values(f, exact[:4].float()).condition_number)
            assert not bool(found.error.isnan().any() | found.digits.isnan().any())
    # The claim is 99.9 %, and 144 pairs are seen here.
    assert failed <= 1
    assert len(torch.cat(ratios)) > 30
    assert float(torch.cat(ratios).median()) < 100
    assert float(torch.cat(conditions).nan_to_num(0.0).max()) > 1e3


def test_a_map_that_contracts_and_expands_is_seen_through():
    # The second half undoes the first: the whole map is the identity, with condition number 1, and loses digits.
    half = Squash(4.0)
    f = Chain(half, half.inverted)
    x = torch.tensor([[2.0, 0.3], [1.5, -0.7], [2.5, 0.2]])
    found = trusted_digits(f, x)
    true = errors(found, x.double())
    assert bool((true > 5 * EPS * x.norm(dim=1)).any())
    assert bool((true <= found.error).all())
    # The amplification of half the map is e^(k a); without it the bound would be some eps.
    assert bool((found.error > 0.1 * EPS * (4 * x[:, 0]).exp()).all())


def test_healthy_maps_keep_their_digits():
    for f in (Permutation(6), randomise(AffineCoupling(6), 0.1), random_chain("spline", 4, 0.3)):
        found = trusted_digits(f, torch.randn(50, 6))
        assert found.lost == 0
        assert bool((found.digits > 4).all())
        assert bool((found.digits <= -math.log10(EPS)).all())
        assert bool((found.error > 0).all())


@pytest.mark.parametrize("method", METHODS)
def test_what_is_lost_has_no_digits(method):
    # The first one is e^36 times the difference of two numbers that agree in all but their last digit.
    y = torch.tensor([[9.0, 9.000001], [0.1, 0.3], [100.0, 1.0]])
    found = trusted_digits(Squash(4.0), y, method=method)
    assert found.error.isinf().tolist() == found.relative.isinf().tolist() == [True, False, True]
    assert found.digits[[0, 2]].tolist() == [0, 0]
    assert found.lost == 2
    assert found.worst_index == 0
    assert "2 samples are lost" in str(found)


@pytest.mark.parametrize("method", METHODS)
def test_a_wrong_inverse_is_not_trusted(method):
    y = torch.randn(20, 4)
    found = trusted_digits(Drift(1.001), y, method=method)
    true = (found.x - (y - 0.5)).norm(dim=1)
    assert bool((found.error >= true).all())
    assert bool((found.digits < 3).all())


def test_an_iteration_that_stops_early_is_not_trusted():
    class Hasty(Iterated):
        @torch.no_grad()
        def inverse(self, y, condition=None):
            x = y
            for _ in range(4):
                x = y - self.a * torch.tanh(x @ self.weight)
            return x, y.new_zeros(len(y))

    for block in (Iterated(), Hasty()):
        with torch.no_grad():
            y = block(torch.randn(30, 5))[0]
        exact = Iterated.inverse(copy.deepcopy(block).double(), y.double())[0]
        found = trusted_digits(block, y)
        assert found.method == "neighbours"
        assert bool((errors(found, exact) <= found.error).all())
        assert bool((found.digits > 4).all()) == (type(block) is Iterated)


def test_a_part_without_grad_is_noticed():
    net = Chain(randomise(AffineCoupling(5)), Iterated(5), randomise(AffineCoupling(5)))
    assert trusted_digits(net, torch.randn(3, 5)).method == "neighbours"
    with pytest.raises(ConfigError, match="trusted_digits: expected an inverse that autograd can differentiate"):
        trusted_digits(net, torch.randn(3, 5), method="adjoint")


def test_adjoints_give_the_expected_error_of_a_linear_map():
    # Of y -> W y with y rounded: E |e|^2 = u^2 (|W diag(y)|_F^2 + |W y|^2), estimated without bias.
    torch.manual_seed(0)
    weight, y = torch.randn(4, 4), torch.randn(1, 4)
    estimates = []
    for _ in range(200):
        leaf, roundings = y.clone().requires_grad_(), Roundings(1)
        with roundings:
            roundings.watch(leaf)
            x = leaf @ weight.T
        torch.autograd.grad(x, leaf, torch.randn(1, 4))
        estimates.append(roundings.variance())
    expected = (EPS / 2) ** 2 * float((weight * y).square().sum() + (y @ weight.T).square().sum())
    assert float(torch.stack(estimates).mean()) == pytest.approx(expected, rel=0.3)


def test_what_moves_numbers_rounds_none():
    leaf, roundings = torch.randn(3, 4).requires_grad_(), Roundings(3)
    with roundings:
        x = torch.cat((leaf[:, 2:], -leaf[:, :2]), 1).flip(1).reshape(3, 2, 2)
    torch.autograd.grad(x, leaf, torch.ones_like(x))
    assert float(roundings.variance().sum()) == 0
    assert not roundings.cut


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_digits_follow_the_dtype(dtype):
    f = randomise(Chain(AffineCoupling(6), AffineCoupling(6, flip=True)), 0.1).to(dtype)
    y = torch.randn(20, 6).to(dtype)
    found = trusted_digits(f, y)
    eps = torch.finfo(dtype).eps
    assert found.eps == eps
    assert 2 * eps < float(found.relative.median()) < 200 * eps or dtype == torch.bfloat16
    if dtype != torch.float64:
        assert bool((errors(found, exact_inverse(f, y)) <= found.error).all())


def test_the_data_side():
    f = random_chain("glow", 6, 1.0)
    x = torch.randn(20, 6)
    found = trusted_digits(f.inverted, x)
    with torch.no_grad():
        exact = copy.deepcopy(f).double()(x.double())[0]
    assert bool((errors(found, exact) <= found.error).all())


@pytest.mark.parametrize(
    "name",
    ["affine-conditional", "affine-condition-map", "factor-out", "squeeze", "flatten", "chain-runs-of-all-kinds"],
)
def test_conditions_and_shapes(name):
    block, x, condition = make(name, torch.float32)
    y = block(x, condition)[0].detach()
    found = trusted_digits(block, y, condition)
    assert found.x.shape == x.shape
    assert bool((errors(found, x.double()) <= 2 * found.error).all())
    assert bool((found.digits > 3).all())


def test_labels_of_a_flow():
    flow = Flow(Conditioned(3), StandardNormal((3,)), classes=3)
    found = trusted_digits(flow, torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    assert found.lost == 0


def test_samples_do_not_depend_on_their_company():
    f = random_chain("affine", 4, 1.0)
    y = torch.randn(12, 6)
    whole, parts = trusted_digits(f, y), trusted_digits(f, y, batch_size=5)
    assert torch.allclose(whole.x, parts.x, atol=1e-5)
    assert bool((whole.error / parts.error < 30).all() & (parts.error / whole.error < 30).all())
    y[3] = math.nan
    y[4, 0] = math.inf
    found = trusted_digits(f, y)
    assert found.error.isinf().nonzero().flatten().tolist() == [3, 4]
    nothing = trusted_digits(f, torch.full((2, 6), math.nan))
    assert nothing.digits.tolist() == [0, 0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("broken", [GivesUp, Hole])
def test_an_inverse_that_breaks_down_costs_only_its_samples(broken, method):
    y = torch.tensor([[0.0, 1.0], [4.0, 1.0], [1.0, 1.0]])
    found = trusted_digits(broken(), y, method=method)
    assert found.error.isinf().tolist() == [False, True, False]


def test_what_f_refuses_is_not_verified():
    y = torch.tensor([[0.7, 0.8], [2.0, 0.8]])
    found = trusted_digits(UnitBox(), y)
    assert found.verified.tolist() == [True, False]
    assert found.lost == 0
    assert "1 samples lie outside the domain" in str(found)


def test_the_model_is_left_alone_and_seeds_reproduce():
    net = set_memory(random_chain("glow", 3, 0.5), "reversible")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    y, memory, log, state = torch.randn(4, 6), net.memory, net.memory_log, torch.get_rng_state()
    first, same, other = (trusted_digits(net, y, generator=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert net.memory is memory
    assert net.memory_log is log
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(first.error, same.error)
    assert not torch.equal(first.error, other.error)


def test_at_most_ten_evaluations():
    counts = {"forward": 0, "inverse": 0}

    class Counted(Bijection):
        def __init__(self):
            super().__init__()
            self.inner = randomise(AffineCoupling(6))

        def forward(self, x, condition=None):
            counts["forward"] += 1
            return self.inner(x)

        def inverse(self, y, condition=None):
            counts["inverse"] += 1
            return self.inner.inverse(y)

    trusted_digits(Counted(), torch.randn(4, 6))
    assert counts == {"forward": 1, "inverse": 2}
    trusted_digits(Counted(), torch.randn(4, 6), method="neighbours")
    assert sum(counts.values()) - 3 <= 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"f": torch.nn.Linear(2, 2)},
            ConfigError,
            "trusted_digits: expected f to be a Bijection or a Flow, got Linear",
        ),
        ({"method": "interval"}, ConfigError, "expected method to be one of 'auto', 'adjoint', 'neighbours'"),
        ({"batch_size": 0}, ConfigError, "expected batch_size of at least 1, got 0"),
        ({"y": torch.randn(0, 2)}, ShapeError, "trusted_digits: expected y of a floating-point dtype"),
        ({"condition": torch.randn(3, 1)}, ShapeError, "expected a condition of 2 rows"),
    ],
)
def test_errors(arguments, error, message):
    given = {"f": Squash(), "y": torch.randn(2, 2)} | arguments
    with pytest.raises(error, match=message):
        trusted_digits(given.pop("f"), given.pop("y"), **given)
