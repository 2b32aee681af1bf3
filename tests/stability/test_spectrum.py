import math

import pytest
import torch

from invertible.bijection import Bijection
from invertible.blocks import ActNorm, AffineCoupling, DiagonalScaling, Flatten, InvertibleLinear, Permutation
from invertible.chain import Chain, set_memory
from invertible.distributions import StandardNormal
from invertible.errors import ConfigError, ShapeError
from invertible.flow import Flow
from invertible.stability.lanczos import largest_singular_values
from invertible.stability.spectrum import singular_values
from tests.registry import make
from tests.stability.maps import Conditioned, GivesUp, Hole, SameLogDet, Squash
from tests.stability.test_products import Iterated, dense
from tests.tools import randomise

METHODS = ["dense", "iterative"]


def diagonal(*values):
    scaling = DiagonalScaling(len(values))
    with torch.no_grad():
        scaling.log_scale.copy_(torch.tensor(values).log())
    return scaling


def exploding(couplings=8, features=6, deviation=0.2):
    blocks = [
        b for _ in range(couplings) for b in (InvertibleLinear(features), AffineCoupling(features, scale="sigmoid"))
    ]
    return randomise(Chain(*blocks), deviation)


@pytest.mark.parametrize("method", METHODS)
def test_a_scaling_has_its_scales_for_singular_values(method):
    found = singular_values(diagonal(3.0, 0.5, 7.0, 1e-9), torch.randn(3, 4), 2, method=method)
    assert torch.allclose(found.largest, torch.tensor([7.0, 3.0]).double().expand(3, 2), rtol=1e-6)
    assert torch.allclose(found.smallest, torch.tensor([1e-9, 0.5]).double().expand(3, 2), rtol=1e-6)
    assert torch.allclose(found.condition_number, torch.full((3,), 7e9).double(), rtol=1e-6)
    assert bool(found.converged.all())
    assert found.largest.dtype == found.dtype == torch.float64


@pytest.mark.parametrize("k", [1, 3, 6])
def test_iterative_values_agree_with_dense_ones(k):
    net, x = exploding(), torch.randn(5, 6)
    exact, found = (singular_values(net, x, k, method=method) for method in METHODS)
    assert (exact.condition_number > 1e3).any()
    assert torch.allclose(found.largest, exact.largest, rtol=1e-4)
    assert torch.allclose(found.smallest, exact.smallest, rtol=1e-4)


def test_dense_values_are_those_of_another_jacobian():
    net, x = exploding(4).double(), torch.randn(3, 6).double()
    values = torch.linalg.svdvals(dense(net, x))
    found = singular_values(net, x, 6)
    assert found.method == "dense"
    assert torch.allclose(found.largest, values, rtol=1e-8)
    assert torch.allclose(found.smallest, values.flip(1), rtol=1e-8)


def test_unfinished_iterations_are_bounds_and_say_so():
    net = Chain(diagonal(*torch.linspace(0.5, 1.5, 60).tolist()), randomise(AffineCoupling(60), 0.02))
    x = torch.randn(4, 60)
    exact = singular_values(net, x, method="dense")
    found = singular_values(net, x, method="iterative", iterations=4, tolerance=1e-9)
    assert not bool(found.converged.any())
    assert bool((found.largest <= exact.largest * (1 + 1e-9)).all())
    assert bool((found.smallest >= exact.smallest * (1 - 1e-9)).all())
    assert bool((found.largest > exact.largest / 2).all())
    assert ">=" in str(found)
    assert "0 of 4 converged" in str(found)


def test_a_value_that_is_there_twice_is_found_twice():
    found = singular_values(diagonal(2.0, 2.0, 2.0, 0.5), torch.randn(2, 4), 3, method="iterative")
    assert torch.allclose(found.largest, torch.full((2, 3), 2.0).double())
    isometry = singular_values(Permutation(5), torch.randn(2, 5), 5, method="iterative")
    assert torch.allclose(isometry.largest, torch.ones(2, 5).double())


def test_large_maps_are_measured_by_iterations():
    found = singular_values(
        Chain(Flatten((3, 12, 12)), diagonal(*torch.logspace(-2, 1, 432).tolist())), torch.rand(2, 3, 12, 12)
    )
    assert found.method == "iterative"
    assert torch.allclose(found.condition_number, torch.full((2,), 1e3).double(), rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["affine-conditional", "spline-images", "factor-out", "chain-inverted"])
def test_blocks_models_and_conditions(name, method):
    block, x, condition = make(name)
    found = singular_values(block, x, condition=condition, method=method)
    assert found.non_finite == 0
    assert bool((found.largest >= found.smallest).all())
    if method == "dense":
        assert found.worst_log_det_error < 1e-9


def test_a_wrong_log_determinant_is_reported():
    class Wrong(SameLogDet):
        def forward(self, x, condition=None):
            y, log_det = super().forward(x)
            return y, 2 * log_det

    assert singular_values(SameLogDet(), torch.randn(3, 4)).worst_log_det_error < 1e-12
    found = singular_values(Wrong(), torch.randn(3, 4))
    assert found.worst_log_det_error == pytest.approx(4 * math.log(2))
    assert math.isnan(singular_values(Wrong(), torch.randn(3, 4), method="iterative").worst_log_det_error)


def test_the_small_end_is_seen_far_below_single_precision():
    x = torch.tensor([[2.0, 0.3]])
    for method in METHODS:
        found = singular_values(Squash(10.0), x, method=method)
        # det J = e^-20 and |J|_2 is moderate, so s_min = e^-20 / s_max.
        assert float(found.smallest * found.largest) == pytest.approx(math.exp(-20), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_samples_without_finite_values_are_counted(method):
    x = torch.randn(4, 2)
    x[1, 0] = math.nan
    found = singular_values(Squash(1.0), x, method=method)
    assert found.non_finite == 1
    assert found.worst_index == 1
    assert found.condition_number.isnan().tolist() == [False, True, False, False]
    assert not bool(found.converged[1])
    nothing = singular_values(Squash(1.0), torch.full((2, 2), math.inf), method=method)
    assert nothing.non_finite == 2
    assert "2 samples not finite" in str(nothing)


@pytest.mark.parametrize("broken", [GivesUp, Hole])
def test_an_inverse_that_breaks_down_costs_only_its_samples(broken):
    x = torch.tensor([[0.0, 1.0], [4.0, 1.0]])
    found = singular_values(broken(), x, method="iterative")
    assert found.condition_number.isnan().tolist() == [False, True]
    assert singular_values(broken(), x, method="dense").non_finite == 0


def test_an_inverse_that_is_not_the_inverse_is_flagged():
    class Other(Bijection):
        def forward(self, x, condition=None):
            return 2 * x, x.new_zeros(len(x))

        def inverse(self, y, condition=None):
            return y / 3, y.new_zeros(len(y))

    found = singular_values(Other(), torch.randn(3, 4), method="iterative")
    assert not bool(found.converged.any())
    assert "does not undo" in found.note


def test_an_iteration_without_grad_is_solved_for():
    block, x = Iterated(), torch.randn(3, 5)
    exact, found = (singular_values(block, x, method=method) for method in METHODS)
    assert "linear systems" in found.note
    assert torch.allclose(found.smallest, exact.smallest, rtol=1e-4)
    assert bool(found.converged.all())


def test_a_model_that_does_not_run_in_float64_is_measured_as_it_is():
    class Single(Squash):
        def forward(self, x, condition=None):
            if x.dtype == torch.float64:
                raise RuntimeError("expected float")
            return super().forward(x)

    found = singular_values(Single(2.0), torch.randn(3, 2))
    assert found.dtype == torch.float32
    assert "does not run in float64" in found.note
    assert found.non_finite == 0


def test_flows_and_what_they_make_of_conditions():
    flow = Flow(Chain(Conditioned(3), ActNorm(3)), StandardNormal((3,)), classes=3)
    x = torch.randn(4, 3)
    found = singular_values(flow, x, condition=torch.tensor([0, 1, 2, 0]))
    assert found.non_finite == 0
    assert not bool(flow.bijection[1].initialized)


def test_the_model_is_left_alone():
    net = set_memory(exploding(3), "reversible")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x, memory, state = torch.randn(2, 6), net.memory, torch.get_rng_state()
    log = net.memory_log
    net.train()
    singular_values(net, x, method="iterative")
    assert net.training
    assert net.memory is memory
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.memory_log is log
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_reproduce():
    net, x = exploding(3), torch.randn(2, 6)
    options = {"method": "iterative", "iterations": 3, "tolerance": 1e-9}
    first, same, other = (singular_values(net, x, generator=seed, **options) for seed in (3, 3, 4))
    assert torch.equal(first.largest, same.largest)
    assert not torch.equal(first.largest, other.largest)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"f": torch.nn.Linear(2, 2)},
            ConfigError,
            "singular_values: expected f to be a Bijection or a Flow, got Linear",
        ),
        ({"k": 3}, ConfigError, "singular_values: expected k of at most 2"),
        ({"k": 0}, ConfigError, "singular_values: expected k"),
        ({"tolerance": 0.0}, ConfigError, "tolerance > 0"),
        ({"method": "qr"}, ConfigError, "expected method to be one of 'auto', 'dense', 'iterative', got 'qr'"),
        ({"x": torch.randn(2)}, ShapeError, "singular_values: expected x of a floating-point dtype"),
        ({"x": torch.ones(2, 2, dtype=torch.long)}, ShapeError, "int64"),
        ({"condition": torch.randn(3, 1)}, ShapeError, "expected a condition of 2 rows"),
    ],
)
def test_errors(arguments, error, message):
    given = {"f": Squash(), "x": torch.randn(2, 2)} | arguments
    with pytest.raises(error, match=message.replace("(", r"\(").replace(")", r"\)")):
        singular_values(given.pop("f"), given.pop("x"), **given)


def test_a_map_that_drops_numbers_is_refused():
    class Drops(Squash):
        def forward(self, x, condition=None):
            return x[:, :1], x.new_zeros(len(x))

    with pytest.raises(ShapeError, match="as many values"):
        singular_values(Drops(), torch.randn(2, 2))


def test_golub_kahan_finds_the_values_of_matrices():
    matrices = torch.randn(7, 12, 12, dtype=torch.float64)
    found = largest_singular_values(
        lambda v: torch.einsum("bij,bj->bi", matrices, v),
        lambda w: torch.einsum("bij,bi->bj", matrices, w),
        torch.randn(7, 12, dtype=torch.float64),
        3,
        12,
        1e-10,
    )
    assert torch.allclose(found.values, torch.linalg.svdvals(matrices)[:, :3], rtol=1e-10)
    assert bool(found.converged.all())
