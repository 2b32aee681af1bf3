"""The judge on trial: each way of being wrong is caught under the name of the law that it breaks."""

import copy

import pytest
import torch
from torch import Tensor

import invertible as inv
from invertible import Bijection, ConfigError, Domain, LipschitzBounds, Reconstruction, ShapeError
from invertible.testing import LAWS, BijectionError, check_bijection
from tests.tools import randomise


class Honest(Bijection):
    """Hands everything on to a right block; mutants change one thing each."""

    def __init__(self, inner: Bijection) -> None:
        super().__init__()
        self.inner = inner
        self.condition_features = inner.condition_features

    def forward(self, x, condition=None):
        return self.inner(x, condition)

    def inverse(self, y, condition=None):
        return self.inner.inverse(y, condition)

    def bounds(self, domain=None):
        return self.inner.bounds(domain)

    def image(self, domain):
        return self.inner.image(domain)


# Rows.


class CentresTheBatch(Honest):
    def forward(self, x, condition=None):
        return super().forward(x - x.mean(0), condition)


class UsesTheRowBefore(Honest):
    def forward(self, x, condition=None):
        y, log_det = super().forward(x, condition)
        return y + 1e-6 * x.roll(1, 0), log_det


class MeanLogDet(Honest):
    def forward(self, x, condition=None):
        y, log_det = super().forward(x, condition)
        return y, log_det.mean().expand(len(x))


class MixesOnTheWayBack(Honest):
    def inverse(self, y, condition=None):
        x, log_det = super().inverse(y, condition)
        return x + 1e-6 * (x - x.mean(0)), log_det


# Shapes.


class ScalarLogDet(Honest):
    def forward(self, x, condition=None):
        y, log_det = super().forward(x, condition)
        return y, log_det.sum()


class ColumnLogDet(Honest):
    def forward(self, x, condition=None):
        y, log_det = super().forward(x, condition)
        return y, log_det[:, None]


class HalfLogDet(Honest):
    def inverse(self, y, condition=None):
        x, log_det = super().inverse(y, condition)
        return x, log_det.half()


class AlwaysFloat64(Honest):
    def forward(self, x, condition=None):
        y, log_det = super().forward(x, condition)
        return y.double(), log_det


class LosesAColumn(Honest):
    def forward(self, x, condition=None):
        y, log_det = super().forward(x, condition)
        return y[:, :-1], log_det

    def inverse(self, y, condition=None):
        return super().inverse(torch.cat((y, y[:, :1]), 1), condition)


class NoPair(Honest):
    def forward(self, x, condition=None):
        return super().forward(x, condition)[0]


class ChangesItsInput(Honest):
    def forward(self, x, condition=None):
        y, log_det = super().forward(x.clone(), condition)
        x.mul_(2)
        return y, log_det


# Inverses.


class NoInverse(Bijection):
    condition_features = 2

    def forward(self, x, condition=None):
        return 2 * x, x.new_full((len(x),), x.shape[1]) * torch.log(x.new_tensor(2.0))


class InverseRaises(Honest):
    def inverse(self, y, condition=None):
        raise NotImplementedError


class InverseReturnsItsInput(Honest):
    def inverse(self, y, condition=None):
        _, log_det = super().inverse(y, condition)
        return y, log_det


class InverseDrifts(Honest):
    def inverse(self, y, condition=None):
        x, log_det = super().inverse(y, condition)
        return x * (1 + 1e-10), log_det


class InverseInSinglePrecision(Honest):
    def inverse(self, y, condition=None):
        x, log_det = super().inverse(y, condition)
        return x.float().to(y.dtype), log_det


class InverseOfPositiveNumbersIsLost(Honest):
    def inverse(self, y, condition=None):
        x, log_det = super().inverse(y, condition)
        return torch.where(y > 0, torch.nan, x), log_det


# Log-determinants.


class Doubled(Honest):
    def forward(self, x, condition=None):
        y, log_det = super().forward(x, condition)
        return y, 2 * log_det

    def inverse(self, y, condition=None):
        x, log_det = super().inverse(y, condition)
        return x, 2 * log_det


class SignFlipped(Honest):
    def forward(self, x, condition=None):
        y, log_det = super().forward(x, condition)
        return y, -log_det

    def inverse(self, y, condition=None):
        x, log_det = super().inverse(y, condition)
        return x, -log_det


class SlightlyOff(Honest):
    def forward(self, x, condition=None):
        y, log_det = super().forward(x, condition)
        return y, log_det + 1e-9


class NotANumber(Honest):
    def forward(self, x, condition=None):
        y, log_det = super().forward(x, condition)
        return y, torch.where(x[:, 0] > 0, torch.nan, log_det)


class InverseSignForgotten(Honest):
    def inverse(self, y, condition=None):
        x, log_det = super().inverse(y, condition)
        return x, -log_det


# Gradients.


class LogDetWithoutGrad(Honest):
    def forward(self, x, condition=None):
        y, log_det = super().forward(x, condition)
        return y, log_det.detach()


class ConditionWithoutGrad(Honest):
    def forward(self, x, condition=None):
        return super().forward(x, condition.detach())


class ParametersWithoutGrad(Honest):
    def forward(self, x, condition=None):
        frozen = copy.deepcopy(self.inner).requires_grad_(False)
        return frozen(x, condition)


class InverseGradientIsWrong(Honest):
    def inverse(self, y, condition=None):
        x, log_det = super().inverse(y, condition)
        return x + (y - y.detach()) * 1e-3, log_det


# Reconstruction.


class ForgetsTheCondition(Honest):
    def reconstruct(self, y, condition=None):
        return super().reconstruct(y, condition.detach())


class ForgetsTheParameters(Honest):
    def reconstruct(self, y, condition=None):
        return copy.deepcopy(self).requires_grad_(False)._again(y, condition)

    def _again(self, y, condition):
        return Bijection.reconstruct(self, y, condition)


class RebuildsLogDetWithoutGrad(Honest):
    def reconstruct(self, y, condition=None):
        x, y, log_det = super().reconstruct(y, condition)
        return Reconstruction(x, y, log_det.detach())


class RecoversAnotherInput(Honest):
    def reconstruct(self, y, condition=None):
        return super().reconstruct(y + 1e-9, condition)


class RecoversNoLeaf(Honest):
    def reconstruct(self, y, condition=None):
        x, y, log_det = super().reconstruct(y, condition)
        return Reconstruction(x.detach(), y, log_det)


# Parts.


class OtherParts(inv.AffineCoupling):
    def forward(self, x, condition=None):
        parts, log_slope = inv.AffineCoupling.forward_parts(self, self.cut.split(x), condition)
        return self.cut.merge(*parts), log_slope.sum(1)

    def forward_parts(self, parts, condition):
        parts, log_slope = super().forward_parts(parts, condition)
        return parts, 2 * log_slope


# Promises.


class BoundedForward(Honest):
    def bounds(self, domain=None):
        return LipschitzBounds(0.99, torch.inf)


class BoundedBack(Honest):
    def bounds(self, domain=None):
        return LipschitzBounds(torch.inf, 0.99)


class BoundedOnADomain(Honest):
    def bounds(self, domain=None):
        return LipschitzBounds(torch.inf, torch.inf) if domain is None else LipschitzBounds(0.99, torch.inf)


class SmallImage(Honest):
    def image(self, domain):
        return Domain(torch.inf, domain.x / 100)


MUTANTS = {
    "rows independent": (CentresTheBatch, UsesTheRowBefore, MeanLogDet, MixesOnTheWayBack),
    "shape and dtype kept": (ScalarLogDet, ColumnLogDet, HalfLogDet, AlwaysFloat64, LosesAColumn, NoPair),
    "input kept": (ChangesItsInput,),
    "round trip": (
        InverseRaises,
        InverseReturnsItsInput,
        InverseDrifts,
        InverseInSinglePrecision,
        InverseOfPositiveNumbersIsLost,
    ),
    "log_det": (Doubled, SignFlipped, SlightlyOff, NotANumber),
    "inverse log_det": (InverseSignForgotten,),
    "gradients": (LogDetWithoutGrad, ConditionWithoutGrad, ParametersWithoutGrad, InverseGradientIsWrong),
    "reconstruct": (
        ForgetsTheCondition,
        ForgetsTheParameters,
        RebuildsLogDetWithoutGrad,
        RecoversAnotherInput,
        RecoversNoLeaf,
    ),
    "bounds": (BoundedForward, BoundedBack, BoundedOnADomain, SmallImage),
}
INNER = {
    "affine": lambda: inv.AffineCoupling(5, hidden=(8,), condition_features=2),
    "spline": lambda: inv.SplineCoupling(4, hidden=(8,), condition_features=2),
    "chain": lambda: inv.Chain(
        inv.ActNorm(5), inv.InvertibleLinear(5), inv.AffineCoupling(5, hidden=(8,), condition_features=2)
    ),
}


def right_block(name: str) -> tuple[Bijection, Tensor, Tensor]:
    block = randomise(INNER[name]().double(), 0.3).eval()
    return block, torch.randn(6, 4 if name == "spline" else 5).double(), torch.randn(6, 2).double()


def caught(block: Bijection, x: Tensor, condition: Tensor | None = None, **options: object) -> BijectionError:
    with pytest.raises(BijectionError) as found:
        check_bijection(block, x, condition, **options)
    error = found.value
    # Owner, law, expected, got and remedy, in one line.
    message = str(error)
    assert message.startswith(f"{type(block).__name__}, law {error.law!r} in float")
    assert "expected" in message
    assert ", got " in message
    assert message.endswith(LAWS[error.law])
    assert "\n" not in message
    return error


@pytest.mark.parametrize("inner", INNER)
def test_honest_blocks_pass(inner: str) -> None:
    block, x, condition = right_block(inner)
    report = check_bijection(Honest(block), x, condition)
    assert report.passed
    assert [each.law for each in report.skipped] == ["parts", "parts"]
    assert {each.law for each in report.measurements} == set(LAWS) - {"claims"}


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(("law", "mutant"), [(law, mutant) for law, mutants in MUTANTS.items() for mutant in mutants])
def test_mutants_are_caught_under_the_name_of_their_law(law: str, mutant: type[Honest], inner: str) -> None:
    block, x, condition = right_block(inner)
    assert caught(mutant(block), x, condition).law == law


def test_missing_inverse_is_caught() -> None:
    error = caught(NoInverse(), torch.randn(4, 5), torch.randn(4, 2))
    assert error.law == "round trip"
    assert "TypeError: NoInverse: define inverse" in str(error)


def test_parts_that_differ_are_caught() -> None:
    assert caught(randomise(OtherParts(4).double()), torch.randn(4, 4)).law == "parts"


@pytest.mark.parametrize(
    ("claim", "block"),
    [
        ("volume-preserving", inv.AffineCoupling(4)),
        ("volume-preserving", Honest(inv.InvertibleLinear(4))),
        ("exact", inv.AdditiveCoupling(4)),
        ("isometry", inv.AdditiveCoupling(4)),
    ],
)
def test_false_claims_of_the_caller_are_caught(claim: str, block: Bijection) -> None:
    error = caught(randomise(copy.deepcopy(block)), torch.randn(4, 4), claims=(claim,))
    assert error.law == "claims"
    assert f"{claim}:" in str(error)


@pytest.mark.parametrize("claim", ["volume_preserving", "exact"])
def test_false_claims_of_the_block_are_caught(claim: str) -> None:
    block, x, condition = right_block("affine")
    mutant = Honest(block)
    setattr(mutant, claim, True)
    error = caught(mutant, x, condition)
    assert error.law == "claims"
    assert f"{claim.replace('_', '-')}:" in str(error)


@pytest.mark.parametrize(
    ("claims", "block"),
    [
        (("volume-preserving",), inv.AdditiveCoupling(4)),
        (("volume-preserving", "exact", "isometry"), inv.Permutation(4)),
        (("volume-preserving", "isometry"), inv.InvertibleLinear(4, "orthogonal")),
    ],
)
def test_true_claims_pass(claims: tuple[str, ...], block: Bijection) -> None:
    report = check_bijection(randomise(copy.deepcopy(block)), torch.randn(4, 4), claims=claims)
    # Once a dtype, whether the block claims it itself or not.
    names = [each.what.partition(":")[0] for each in report.measurements if each.law == "claims"]
    assert sorted(names) == sorted(2 * claims)


def test_a_lost_sample_is_named() -> None:
    class LosesThree(Honest):
        def inverse(self, y, condition=None):
            x, log_det = super().inverse(y, condition)
            return torch.where((y == far).all(1, keepdim=True), x + 1e-3, x), log_det

    block, x, _ = right_block("affine")
    condition = torch.zeros(6, 2).double()
    far = block(x, condition)[0][3].detach()
    error = caught(LosesThree(block), x, condition, dtypes=(torch.float64,))
    assert error.measurement is not None
    assert error.measurement.sample == 3
    assert "in sample 3" in str(error)
    assert error.report is not None
    assert not error.report.passed
    assert "LosesThree: failed" in str(error.report)


def test_mutants_in_many_dimensions_are_caught_without_jacobians() -> None:
    block = randomise(inv.AffineCoupling(200, hidden=(16,)).double(), 0.05)
    x = torch.randn(4, 200)
    report = check_bijection(Honest(block), x)
    assert {"log_det", "bounds"} <= {each.law for each in report.skipped}
    assert "200 dimensions" in str(report)
    for law, mutant in (
        ("rows independent", CentresTheBatch),
        ("round trip", InverseDrifts),
        ("round trip", InverseRaises),
        ("inverse log_det", InverseSignForgotten),
        ("gradients", LogDetWithoutGrad),
    ):
        assert caught(mutant(block), x).law == law


def test_the_block_and_the_random_state_stay_as_they_are() -> None:
    block = inv.Chain(inv.ActNorm(4), inv.AffineCoupling(4)).train()
    before, state = copy.deepcopy(block.state_dict()), torch.get_rng_state()
    check_bijection(block, torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(value, block.state_dict()[key]) for key, value in before.items())
    assert block.training
    assert all(p.grad is None and p.dtype == torch.float32 for p in block.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_reports_are_the_same_twice() -> None:
    block, x, condition = right_block("affine")
    assert str(check_bijection(block, x, condition)) == str(check_bijection(block, x, condition))


def test_report_is_a_table() -> None:
    block, x, condition = right_block("affine")
    lines = str(check_bijection(block, x, condition)).splitlines()
    assert lines[0] == "AffineCoupling: passed"
    assert lines[1].split() == ["law", "dtype", "equation", "measured", "tolerance"]
    assert any(line.startswith("round trip") and "float32" in line for line in lines)


def test_a_given_tolerance_replaces_the_derived_one() -> None:
    block, x, condition = right_block("affine")
    check_bijection(InverseDrifts(block), x, condition, tolerance=1e-5)
    assert caught(InverseReturnsItsInput(block), x, condition, tolerance=1e-5).law == "round trip"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.randn(1, 4),), ShapeError, "at least 2 samples, got torch.float32 of shape"),
        ((torch.zeros(4, 4, dtype=torch.int64),), ShapeError, "floating-point dtype .* got torch.int64"),
        ((torch.full((4, 4), torch.nan),), ShapeError, "expected x to be finite, got NaN"),
    ],
)
def test_wrong_batches_are_named(arguments: tuple[Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"check_bijection: .*{message}"):
        check_bijection(inv.Permutation(4), *arguments)


def test_wrong_options_are_named() -> None:
    x = torch.randn(4, 4)
    with pytest.raises(ConfigError, match="claims to be one of 'volume-preserving', 'exact', 'isometry', got 'right'"):
        check_bijection(inv.Permutation(4), x, claims=("right",))
    with pytest.raises(ConfigError, match="expected a positive tolerance, got 0"):
        check_bijection(inv.Permutation(4), x, tolerance=0.0)
