import copy
import math
import re

import pytest
import torch

from invertible.bijection import Bijection
from invertible.blocks import AdditiveCoupling, AffineCoupling, FactorOut, InvertibleLinear, ReversibleResidual
from invertible.chain import Chain
from invertible.errors import ConfigError, DomainError, NotInvertibleError, ShapeError
from invertible.memory import Exact
from invertible.stability.checked import CheckedInverse
from invertible.stability.refine import checked_inverse
from invertible.stability.shooting import Shooting
from invertible.stability.states import derivative
from tests.registry import make
from tests.stability.maps import Conditioned, Drift, GivesUp, Halves, Hole, Shift
from tests.tools import randomise

METHODS = ["auto", "plain", "float64", "shooting", "single-shooting"]


def ill_conditioned(layers=16, noise=1.5, features=8, seed=16):
    """A float32 network, its float64 copy, x, y = f(x) in float64."""
    torch.manual_seed(seed)
    blocks: list[Bijection] = []
    for index in range(layers):
        coupling = AffineCoupling(features, hidden=(32,), flip=index % 2 == 1)
        with torch.no_grad():
            for p in coupling.parameters():
                p += noise * torch.randn_like(p) / max(1, p[0].numel()) ** 0.5
        blocks += [InvertibleLinear(features, "orthogonal"), coupling]
    f = Chain(*blocks).eval()
    double = copy.deepcopy(f).double()
    x = torch.randn(8, features, dtype=torch.float64)
    return f, double, x, double(x)[0].detach()


def error(x, truth):
    distance = (x.detach().double() - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
    return distance.nan_to_num(nan=math.inf)


def condition_number(f, x):
    jacobian = torch.func.vmap(torch.func.jacfwd(lambda v: f(v[None])[0][0]))(x)
    return torch.linalg.cond(jacobian)


@pytest.mark.parametrize(("layers", "noise"), [(8, 1.0), (16, 1.5), (16, 2.0)])
def test_five_sweeps_reach_what_the_float64_inverse_reaches(layers, noise):
    f, double, x, y = ill_conditioned(layers, noise)
    reference = error(double.inverse(y)[0], x).max()
    found = checked_inverse(f, y, method="shooting", sweeps=5, on_failure="return")
    assert error(found.x, x).max() <= 10 * reference
    assert error(f.inverse(y.float())[0], x).max() > 1e6 * reference
    assert set(found.method) == {"shooting"}


def test_the_networks_here_are_ill_conditioned():
    _, double, x, _ = ill_conditioned()
    assert 1e6 < condition_number(double, x).median() < 1e12
    _, double, x, _ = ill_conditioned(16, 2.0)
    assert condition_number(double, x).max() > 1e10


@pytest.mark.parametrize("method", ["float64", "shooting"])
def test_the_error_is_estimated(method):
    for seed in range(4):
        f, _, x, y = ill_conditioned(layers=12, noise=1.2, seed=seed)
        found = checked_inverse(f, y, method=method, on_failure="return")
        ratio = found.error / error(found.x, x).clamp(min=1e-16)
        assert ratio.min() > 0.25
        assert ratio.median() < 20


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_figures_are_those_of_the_x_that_is_returned(method, dtype):
    f, double, _, y = ill_conditioned(layers=8, noise=1.0)
    y = y.to(dtype)
    found = checked_inverse(f, y, method=method, on_failure="return")
    again, log_det = double(found.x.double())
    size = torch.maximum(y.double().norm(dim=1), y.double().norm(dim=1).median())
    torch.testing.assert_close(found.residual, (again - y).norm(dim=1) / size, rtol=1e-6, atol=1e-17)
    torch.testing.assert_close(found.log_det, -log_det, rtol=1e-12, atol=1e-12)
    assert found.x.dtype == dtype
    assert bool((found.error >= found.unrounded_error).all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("layers", "noise"), [(8, 1.0), (16, 2.0), (24, 1.8)])
def test_nothing_is_worse_than_the_start(method, layers, noise):
    f, double, x, y = ill_conditioned(layers, noise)
    found = checked_inverse(f, y, method=method, on_failure="return", dtype=torch.float64, sweeps=4)
    start = error(f.inverse(y.float())[0], x)
    assert bool((found.residual <= found.start_residual).all())
    assert bool((error(found.x, x) <= start * (1 + 1e-6)).all())
    plain = double(f.inverse(y.float())[0].double())[0]
    size = torch.maximum(y.norm(dim=1), y.norm(dim=1).median())
    torch.testing.assert_close(found.start_residual, (plain - y).norm(dim=1) / size, rtol=0.3, atol=1e-7)


def test_a_float32_result_is_the_rounded_solution_and_no_failure():
    f, double, x, y = ill_conditioned(layers=8, noise=1.0)
    found = checked_inverse(f, y, 1e-10, dtype=torch.float32)
    assert found.passed.all()
    assert found.limited_by_dtype.all()
    assert torch.equal(found.x, double.inverse(y)[0].float())
    assert found.error.max() < torch.finfo(torch.float32).eps
    assert found.unrounded_error.max() < 1e-10 < found.residual.max()
    assert "limited by torch.float32 alone" in str(found)
    assert not checked_inverse(f, y, 1e-10).limited_by_dtype.any()
    assert error(checked_inverse(f, y, 1e-10).x, x).max() < 1e-10


def test_only_what_fails_is_refined():
    f, _, _, y = ill_conditioned(layers=8, noise=1.0)
    y = y.float()
    plain = checked_inverse(f, y, 1.0)
    assert set(plain.method) == {"plain"}
    torch.testing.assert_close(plain.x, f.inverse(y)[0].detach())
    tolerance = float(plain.error.median())
    found = checked_inverse(f, y, tolerance)
    assert set(found.method) == {"plain", "float64"}
    for method, before in zip(found.method, plain.error, strict=True):
        assert (method == "plain") == (before <= tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tolerance_is_half_of_the_digits(dtype):
    assert checked_inverse(Shift(), torch.zeros(1, 2, dtype=dtype)).tolerance == torch.finfo(dtype).eps ** 0.5


class Faint(Shift):
    """y = x e^-60: two of them leave float32."""

    def __init__(self):
        super().__init__()
        self.log = torch.nn.Parameter(torch.tensor(-60.0))

    def forward(self, x, condition=None):
        return x * self.log.exp(), self.log.expand(len(x)) * x[0].numel()

    def inverse(self, y, condition=None):
        return y * (-self.log).exp(), -self.log.expand(len(y)) * y[0].numel()


@pytest.mark.parametrize("method", ["auto", "float64", "shooting"])
def test_what_explodes_in_float32_is_found_in_float64(method):
    f = Chain(Faint(), Faint())
    x = torch.randn(4, 3, dtype=torch.float64)
    y = copy.deepcopy(f).double()(x)[0]
    assert not torch.allclose(f.inverse(y.float())[0].double(), x)
    assert error(checked_inverse(f, y, method=method).x, x).max() < 1e-12


@pytest.mark.parametrize("factor", [1.01, 1.3])
def test_sweeps_mend_an_approximate_inverse(factor):
    f = Chain(Shift(), Drift(factor), Shift())
    x = torch.randn(4, 3, dtype=torch.float64)
    found = checked_inverse(f, x + 1.5, 1e-9, sweeps=30)
    assert set(found.method) == {"shooting"}
    assert error(found.x, x).max() < 1e-9
    assert found.changes.shape == (found.sweeps, 4)


class Constant(Shift):
    def inverse(self, y, condition=None):
        return torch.zeros_like(y), y.new_zeros(len(y))


class OneRow(Shift):
    """Its inverse is wrong where the first value is above 2."""

    def inverse(self, y, condition=None):
        return torch.where(y[:, :1] > 2, torch.zeros_like(y), y - 0.5), y.new_zeros(len(y))


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (OneRow(), ["misses its own output", "check_bijection"]),
        (Hole(), ["loses the sample", "Float64"]),
        (GivesUp(), ["loses the sample", "raised", "did not converge"]),
    ],
)
def test_the_block_and_the_sample_are_named(block, words):
    f, y = Chain(Shift(), block, Shift()), torch.full((5, 2), 1.25)
    y[3] = 6.0
    with pytest.raises(NotInvertibleError) as caught:
        checked_inverse(f, y)
    assert (caught.value.sample, caught.value.block) == (3, f"bijection.blocks[1] ({type(block).__name__})")
    assert caught.value.error is not None
    for word in ["1 of 5 samples", "sample 3", *words]:
        assert word in str(caught.value)
    found = checked_inverse(f, y, on_failure="return")
    assert found.passed.tolist() == [True, True, True, False, True]
    assert torch.equal(found.x[found.passed], y[found.passed] - 1.5)
    with pytest.warns(UserWarning, match="sample 3"):
        checked_inverse(f, y, on_failure="warn")


def test_a_wrong_inverse_does_not_pass_because_its_derivative_is_zero():
    with pytest.raises(NotInvertibleError, match="misses its own output"):
        checked_inverse(Chain(Constant()), torch.ones(2, 2) * 4)


def test_one_that_raises_for_every_sample():
    with pytest.raises(NotInvertibleError, match="did not converge"):
        checked_inverse(Chain(GivesUp()), torch.full((2, 2), 5.0))


def test_too_ill_conditioned_for_float64_too():
    f, _, x, y = ill_conditioned(24, 1.5)
    found = checked_inverse(f, y, on_failure="return")
    assert not found.passed.all()
    assert not bool((found.passed & (error(found.x, x) > 10 * found.tolerance)).any())
    assert re.search(r"multiplies errors by .* bound the scales", found.complaint)
    assert found.sweeps > 0


KINDS = (
    "actnorm-images factor-out-conditional factor-out logit haar-inverted spline-odd affine-images chain-inverted "
    "chain-runs-of-all-kinds chain-nested-conditional chain-run-of-matrices chain-empty affine-condition-map "
    "permutation-given flatten"
)


@pytest.mark.parametrize("name", KINDS.split())
@pytest.mark.parametrize("method", ["auto", "shooting"])
def test_every_kind_of_block(name, method):
    torch.manual_seed(0)
    f, x, condition = make(name, torch.float64)
    y = f(x, condition)[0].detach()
    f = f.float()
    given = None if condition is None else condition.float()
    found = checked_inverse(f, y, 1e-9, condition=given, method=method)
    # The weights are those of float32, so that x differs from the one above; what counts is f(x) = y.
    again = copy.deepcopy(f).double()(found.x, None if given is None else given.double())[0]
    torch.testing.assert_close(again, y, rtol=1e-8, atol=1e-8)


def test_models_and_flows_of_several_scales():
    torch.manual_seed(0)
    f, x, _ = make("glow", torch.float32)
    y = f(x)[0].detach()
    found = checked_inverse(f, y, 1e-6)
    assert found.x.shape == x.shape
    torch.testing.assert_close(found.x, x, rtol=1e-4, atol=1e-4)


def test_containers_of_ones_own_are_one_block():
    coupling = randomise(AffineCoupling(2, hidden=(8,)), 0.5)
    f = Chain(Shift(), Halves(Chain(coupling), Shift()), Shift())
    x = torch.randn(6, 4, dtype=torch.float64)
    y = copy.deepcopy(f).double()(x)[0].detach()
    found = checked_inverse(f, y, 1e-12, method="shooting")
    assert found.blocks[1] == "bijection.blocks[1] (Halves)"
    assert error(found.x, x).max() < 1e-12


def test_the_condition_reaches_the_blocks():
    y, condition = torch.randn(5, 3), torch.randn(5, 3)
    found = checked_inverse(Chain(Shift(), Conditioned(3)), y, condition=condition, method="shooting")
    torch.testing.assert_close(found.x, y - condition - 0.5)


class NoForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y / 3

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] / 3


class Third(Shift):
    def forward(self, x, condition=None):
        return 3 * x, x.new_zeros(len(x)) + math.log(3) * x[0].numel()

    def inverse(self, y, condition=None):
        return NoForwardMode.apply(y), y.new_zeros(len(y)) - math.log(3) * y[0].numel()


class Detached(Third):
    def inverse(self, y, condition=None):
        return (y / 3).detach(), y.new_zeros(len(y)) - math.log(3) * y[0].numel()


@pytest.mark.parametrize("block", [Third(), Detached()])
def test_without_forward_mode_differences_do(block):
    x = torch.randn(4, 3, dtype=torch.float64)
    found = checked_inverse(Chain(block, block), 9 * x, 1e-12, method="shooting")
    assert error(found.x, x).max() < 1e-12
    assert found.error.min() > 0


def test_derivatives_are_those_of_autograd():
    torch.manual_seed(0)
    coupling = randomise(AffineCoupling(4, hidden=(8,)).double(), 0.5)
    y, along = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    inverse = lambda v: coupling.inverse(v)[0]  # noqa: E731
    with torch.no_grad():
        value, tangent = derivative(lambda state, _: (inverse(state[0]),), (y,), (along,), None)
    expected = torch.autograd.functional.jvp(inverse, y, along)
    torch.testing.assert_close((value[0], tangent[0]), expected)


class Single(Shift):
    """Runs in float32 only."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([[2.0]]))

    def forward(self, x, condition=None):
        return x.reshape(-1, 1).mm(self.scale.float()).reshape(x.shape), x.new_zeros(len(x))

    def inverse(self, y, condition=None):
        return y.reshape(-1, 1).mm(1 / self.scale.float()).reshape(y.shape), y.new_zeros(len(y))


def test_what_does_not_run_in_float64_is_checked_in_its_own_dtype():
    y = torch.randn(4, 3)
    found = checked_inverse(Chain(Single()), y, 1e-5)
    assert torch.equal(found.x, y / 2)
    assert found.work_dtype == torch.float32
    assert "does not run in float64" in found.note
    assert "does not run in float64" in str(found)


def test_exact_chains_are_checked_in_their_own_arithmetic():
    torch.manual_seed(0)
    nets = lambda: torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))  # noqa: E731
    f = Chain(*[ReversibleResidual(nets(), nets()) for _ in range(3)], memory=Exact(bits=20))
    with torch.no_grad():
        x = f.inverse(f(torch.randn(4, 6, dtype=torch.float64))[0])[0]
        y = f(x)[0]
    found = checked_inverse(f, y)
    assert torch.equal(found.x, x)
    assert found.residual.tolist() == [0] * 4
    assert "Exact" in found.note


def test_half_precision():
    torch.manual_seed(0)
    f = Chain(*[randomise(AdditiveCoupling(6, hidden=(8,), flip=i % 2 == 1), 0.3) for i in range(6)]).bfloat16()
    double = copy.deepcopy(f).double()
    x = torch.randn(8, 6, dtype=torch.float64)
    y = double(x)[0].detach()
    for method in ("auto", "shooting"):
        assert error(checked_inverse(f, y, 1e-9, method=method, sweeps=20).x, x).max() < 1e-9
    low = checked_inverse(f, y.bfloat16())
    assert low.x.dtype == torch.bfloat16
    assert low.passed.all()


def test_the_model_is_left_as_it_was():
    torch.manual_seed(0)
    f = Chain(AffineCoupling(4, hidden=(8,)), FactorOut(AffineCoupling(2, hidden=(8,)))).train()
    f(torch.randn(3, 4))[0].sum().backward()
    before = {name: (p.clone(), p.grad.clone()) for name, p in f.named_parameters() if p.grad is not None}
    modules = {name: set(vars(module)) for name, module in f.named_modules()}
    state = torch.get_rng_state()
    checked_inverse(f, torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), method="shooting")
    assert f.training
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: set(vars(module)) for name, module in f.named_modules()} == modules
    for name, p in f.named_parameters():
        if name in before:
            assert torch.equal(p, before[name][0])
            assert p.grad is not None
            assert torch.equal(p.grad, before[name][1])


def test_the_same_call_gives_the_same_numbers():
    f, _, _, y = ill_conditioned(layers=8, noise=1.0)
    first, second = (checked_inverse(f, y, method="shooting") for _ in range(2))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.error, second.error)


def test_rows_do_not_depend_on_each_other():
    f, double, _, y = ill_conditioned(layers=8, noise=1.0)
    shooting = Shooting(f, double, None, torch.float32, torch.float64)
    with torch.no_grad():
        whole = shooting.trajectory(y, precise=True)
        part = shooting.trajectory(y[3:5], precise=True)
    assert whole is not None
    assert part is not None
    torch.testing.assert_close(whole.x[3:5], part.x)


def test_the_result_reads():
    f, _, _, y = ill_conditioned(layers=8, noise=1.0)
    found = checked_inverse(f, y.float())
    assert isinstance(found, CheckedInverse)
    text = str(found)
    for word in ("checked inverse of 8 samples", "estimated error", "verified residual", "worst sample"):
        assert word in text
    assert "8 within 3.5e-04" in text
    assert found.worst_block in text


@pytest.mark.parametrize(
    ("y", "options", "kind", "message"),
    [
        (torch.tensor([[1.0, math.nan], [1.0, 1.0], [math.inf, 0.0]]), {}, DomainError, "2 of 3 samples: 0, 2"),
        (torch.zeros(0, 2), {}, ShapeError, r"not empty.*\(0, 2\)"),
        (torch.zeros(2, 2).long(), {}, ShapeError, "floating-point"),
        (torch.zeros(2, 2), {"condition": torch.zeros(3, 2)}, ShapeError, "a condition of 2 rows.* got 3"),
        (torch.zeros(2, 2), {"tolerance": 0.0}, ConfigError, "tolerance > 0.* got 0.0"),
        (torch.zeros(2, 2), {"tolerance": math.nan}, ConfigError, "tolerance > 0.* got nan"),
        (torch.zeros(2, 2), {"sweeps": 0}, ConfigError, "sweeps of at least 1, got 0"),
        (torch.zeros(2, 2), {"method": "newton"}, ConfigError, "method to be one of 'auto'.* got 'newton'"),
        (torch.zeros(2, 2), {"on_failure": "ignore"}, ConfigError, "on_failure to be one of 'raise'.* got 'ignore'"),
        (torch.zeros(2, 2), {"dtype": torch.int64}, ConfigError, "dtype to be a floating-point one.* torch.int64"),
    ],
)
def test_wrong_use(y, options, kind, message):
    with pytest.raises(kind, match=f"checked_inverse: expected .*{message}"):
        checked_inverse(Chain(Shift()), y, **options)


def test_no_bijection():
    with pytest.raises(ConfigError, match="got Linear"):
        checked_inverse(torch.nn.Linear(2, 2), torch.zeros(2, 2))
