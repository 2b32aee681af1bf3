"""What is refused, and how it is said: owner, what was expected, what came, what to do; one line each."""

import re
from collections.abc import Callable

import pytest
import torch

import invertible as inv
from invertible import ConfigError, DomainError, InvertibleError, NotInvertibleError, ShapeError
from invertible.partition import partition
from tests.registry import BLOCKS, make
from tests.tools import randomise

BOTH = pytest.mark.parametrize("direction", ["forward", "inverse"])


def refused(call: Callable[[], object], error: type[InvertibleError], owner: str, *parts: str) -> str:
    """Check that `call` raises an error whose message is one line with the owner in front and the parts in order."""
    with pytest.raises(error) as found:
        call()
    message = str(found.value)
    assert "\n" not in message
    assert message.startswith(f"{owner}: "), message
    assert message.endswith("."), message
    assert re.search(".*".join(parts), message), f"{parts} not in {message!r}"
    return message


def given(name: str, direction: str):
    """A block of the table in one direction, an input and a condition that fit."""
    block, x, condition = make(name)
    with torch.no_grad():
        value = x if direction == "forward" else block(x, condition)[0]
    return getattr(block, direction), value, condition, type(block).__name__


# Of every block.

WITH_CONDITION = [name for name, entry in BLOCKS.items() if entry.condition is not None]
WITHOUT_CONDITION = [name for name, entry in BLOCKS.items() if entry.condition is None]
# Blocks that take any number of channels.
ANY_WIDTH = {
    "logit",
    "logit-small-alpha",
    "logit-inverted",
    "chain-empty",
    "squeeze",
    "squeeze-space-major",
    "squeeze-channels-last",
    "squeeze-three",
    "squeeze-vertical",
    "unsqueeze",
    "haar",
    "haar-inverted",
    "factor-out-kept",
}
ANY_RANK = {"logit", "logit-small-alpha", "logit-inverted", "chain-empty", "chain-run-of-scalings"}
ELEMENTWISE = {"leaky-relu", "leaky-relu-steep-images", "tanh", "sigmoid", "softplus"}
ANY_WIDTH |= ELEMENTWISE
ANY_RANK |= ELEMENTWISE
ANY_RANK |= {
    name for name in BLOCKS if name.partition("-")[0] in {"actnorm", "scaling", "permutation", "batch", "standardise"}
}
# Their inner networks are the user's, and know what they take.
ANY_RANK |= {"reversible-residual-batch-norm", "swap", "swap-images", "chain-of-swaps", "residual-ordinary-net"}
ANY_RANK |= {"orthogonal-coupling-vectors"}
ANY_WIDTH |= {"residual-ordinary-net", "gradient-injection"}


@BOTH
@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_refuses_inputs_without_a_batch_axis(name: str, direction: str) -> None:
    run, value, condition, _ = given(name, direction)
    with pytest.raises(ShapeError, match=r"^\w+: expected x of shape .* got \(4,\)\. .*x\[None\]\.$"):
        run(value.flatten()[:4], condition)


@BOTH
@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_refuses_integers(name: str, direction: str) -> None:
    run, value, condition, _ = given(name, direction)
    with pytest.raises(
        ShapeError, match=r"^\w+: expected x of a floating-point dtype, got torch.int64\. .*x\.float\(\)"
    ):
        run(value.long(), condition)


@BOTH
@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in ANY_RANK])
def test_every_block_refuses_another_rank(name: str, direction: str) -> None:
    run, value, condition, _ = given(name, direction)
    with pytest.raises(
        ShapeError, match=r"^\w+: expected x of shape .* got \(4, .*\)\. .*(build it|reshape x)"
    ) as found:
        run(value[..., None], condition)
    assert "\n" not in str(found.value)


@BOTH
@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in ANY_WIDTH])
@pytest.mark.parametrize("width", ["one", "more"])
def test_every_block_refuses_another_width(name: str, direction: str, width: str) -> None:
    run, value, condition, _ = given(name, direction)
    wrong = value[:, :1] if width == "one" else torch.cat((value, value[:, :1]), 1)
    with pytest.raises(ShapeError, match=r"^\w+: expected x .*got \(4, ") as found:
        run(wrong, condition)
    assert "\n" not in str(found.value)


@BOTH
@pytest.mark.parametrize("name", WITHOUT_CONDITION)
def test_every_block_refuses_a_condition_that_it_does_not_take(name: str, direction: str) -> None:
    run, value, _, _ = given(name, direction)
    with pytest.raises(ShapeError, match=r"^\w+: takes no condition, got one of shape \(4, 2\)\. Leave it out"):
        run(value, torch.zeros(4, 2).double())


@BOTH
@pytest.mark.parametrize("name", WITH_CONDITION)
def test_every_block_refuses_a_wrong_condition(name: str, direction: str) -> None:
    run, value, condition, owner = given(name, direction)
    features = condition.shape[1]
    shape = rf"expected condition of shape \(4, {features}\)"
    refused(
        lambda: run(value),
        ShapeError,
        owner,
        rf"expected a condition of shape \(batch, {features}\), got none",
        "Pass condition",
    )
    refused(lambda: run(value, condition[:3]), ShapeError, owner, shape, r"got \(3, ", "not broadcast")
    refused(lambda: run(value, condition[:1]), ShapeError, owner, shape, r"got \(1, ", "not broadcast")
    refused(lambda: run(value, condition[:, :1]), ShapeError, owner, shape, r"got \(4, 1", "not broadcast")
    refused(lambda: run(value, condition.flatten()), ShapeError, owner, shape, "got")
    refused(
        lambda: run(value, condition.long()), ShapeError, owner, "floating-point dtype", "got torch.int64", "one_hot"
    )
    refused(
        lambda: run(value, condition.to("meta")), ShapeError, owner, "on cpu", "got torch.float64 on meta", "Convert it"
    )


@BOTH
@pytest.mark.parametrize(
    "name", ["actnorm", "scaling-images", "permutation-given", "linear-plu", "conv1x1-free", "affine-odd", "chain"]
)
def test_blocks_refuse_inputs_on_another_device(name: str, direction: str) -> None:
    run, value, _, _ = given(name, direction)
    owner = r"^(ActNorm|DiagonalScaling|Permutation|Invertible\w+|AffineCoupling|Chain)"
    with pytest.raises(ShapeError, match=rf"{owner}: expected x on cpu, where the block is, got x on meta\. Move one"):
        run(value.to("meta"))


@BOTH
@pytest.mark.parametrize("name", ["affine-odd", "spline-images", "chain-run-of-parts"])
def test_couplings_name_a_dtype_that_differs(name: str, direction: str) -> None:
    run, value, _, _ = given(name, direction)
    message = r"Coupling: expected x of torch.float64, the block's dtype, got torch.float32\. Convert one of them"
    with pytest.raises(ShapeError, match=message):
        run(value.float())


def test_errors_of_a_user_network_pass_through() -> None:
    def broken(a: int, b: int) -> torch.nn.Module:
        return torch.nn.Linear(a + 1, b)

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        inv.AffineCoupling(4, broken)(torch.randn(2, 4))


# Of one block.

IMAGE = torch.zeros(2, 3, 5, 4)


@pytest.mark.parametrize(
    ("call", "owner", "parts"),
    [
        (lambda: inv.Squeeze()(IMAGE), "Squeeze", ("height and width divisible by 2", r"got \(2, 3, 5, 4\)", "Pad")),
        (lambda: inv.Squeeze().inverse(IMAGE), "Squeeze", ("channels divisible by 4", r"got \(2, 3, 5, 4\)")),
        (lambda: inv.Haar()(IMAGE), "Haar", ("even height and width", r"got \(2, 3, 5, 4\)", "Pad")),
        (lambda: inv.Haar().inverse(IMAGE), "Haar", ("channels divisible by 4", r"got \(2, 3, 5, 4\)")),
        (
            lambda: inv.AffineCoupling(3, mask="checkerboard", spatial_dims=2)(IMAGE),
            "Checkerboard",
            ("even height and width", r"got \(2, 3, 5, 4\)", "Pad the image or use mask='half'"),
        ),
        (
            lambda: inv.FactorOut(inv.Chain())(IMAGE),
            "FactorOut",
            ("even number of channels", r"got \(2, 3, 5, 4\)", "Pass kept="),
        ),
        (lambda: inv.FactorOut(inv.Chain(), kept=3)(IMAGE), "FactorOut", (r"got \(2, 3, 5, 4\)", "below that of x")),
        (lambda: inv.Flatten((3, 4, 5))(IMAGE), "Flatten", (r"\(batch, 3, 4, 5\)", r"got \(2, 3, 5, 4\)")),
        (
            lambda: inv.Chain(inv.ActNorm(1), inv.ActNorm(3)).eval()(IMAGE),
            "Chain",
            ("one number of channels", "got 1 and 3", "A size of 1 is not broadcast"),
        ),
        (
            lambda: inv.Chain(*[inv.AdditiveCoupling(4, flip=i == 1) for i in range(2)])(torch.zeros(2, 4, 4)),
            "AdditiveCoupling",
            (r"expected x of shape \(batch, 4\)", r"got \(2, 4, 4\)", "spatial_dims=0"),
        ),
    ],
)
def test_shapes_that_a_block_cannot_take(call: Callable[[], object], owner: str, parts: tuple[str, ...]) -> None:
    refused(call, ShapeError, owner, *parts)


@pytest.mark.parametrize(
    ("call", "owner", "parts"),
    [
        (
            lambda: inv.Logit()(torch.tensor([[0.5, 1.2]])),
            "Logit",
            ("expected x in", "got values in", "Scale the data"),
        ),
        (lambda: inv.Logit()(torch.tensor([[0.5, torch.nan]])), "Logit", ("expected x in", "got values in", "Scale")),
        (lambda: inv.ActNorm(2)(torch.ones(8, 2)), "ActNorm", ("channels that vary", "got channel 0", "larger batch")),
        (lambda: inv.ActNorm(2)(torch.full((8, 2), torch.nan)), "ActNorm", ("expected finite data", "got NaN")),
        (
            lambda: inv.Dequantize(256)(torch.tensor([[256]])),
            "Dequantize",
            ("0 .. 255", "got 256 .. 256", "Set levels"),
        ),
    ],
)
def test_values_outside_a_domain(call: Callable[[], object], owner: str, parts: tuple[str, ...]) -> None:
    refused(call, DomainError, owner, *parts)


ONE_OF = "to be one of"


@pytest.mark.parametrize(
    ("call", "owner", "parts"),
    [
        (lambda: inv.AffineCoupling(4, mask="stripes"), "AffineCoupling", ("mask", ONE_OF, "'half'", "got 'stripes'")),
        (lambda: inv.AffineCoupling(4, scale="tanh"), "AffineCoupling", ("scale", ONE_OF, "'exp'", "got 'tanh'")),
        (lambda: inv.AffineCoupling(4, order="nice"), "AffineCoupling", ("order", ONE_OF, "'glow'", "got 'nice'")),
        (
            lambda: inv.AffineCoupling(1),
            "Partition",
            ("in either part at least", "got 1 and 0 of 1", "two features or more"),
        ),
        (lambda: inv.AffineCoupling(0), "AffineCoupling", ("features", "at least 1", "got 0")),
        (lambda: inv.AffineCoupling(4, condition_features=-1), "AffineCoupling", ("condition_features", "got -1")),
        (lambda: inv.AffineCoupling(4, hidden=(0,)), "MLP", (r"hidden\[0\]", "got 0")),
        (lambda: inv.AffineCoupling(4, spatial_dims=1), "coupling", ("spatial_dims", "got 1", "pass net")),
        (lambda: inv.AffineCoupling(4, mask="checkerboard"), "AffineCoupling", ("spatial_dims=2", "got 0")),
        (
            lambda: inv.AffineCoupling(4, mask=torch.ones(3, dtype=torch.bool)),
            "AffineCoupling",
            (r"mask of shape \(4,\)", r"got \(3,\)"),
        ),
        (
            lambda: inv.AffineCoupling(4, mask=torch.ones(4)),
            "Mask",
            ("boolean tensor", "got torch.float32", r"mask\.bool\(\)"),
        ),
        (
            lambda: inv.AffineCoupling(4, mask=torch.ones(4, dtype=torch.bool)),
            "Partition",
            ("in either part at least", "got 4 and 0 of 4", "both True and False"),
        ),
        (lambda: partition("thirds", 3), "partition", ("mask", ONE_OF, "got 'thirds'")),
        (lambda: inv.SplineCoupling(4, bins=1), "SplineCoupling", ("bins of at least 2", "got 1")),
        (lambda: inv.SplineCoupling(4, bound=0.0), "SplineCoupling", ("positive bound", "got 0")),
        (lambda: inv.SplineCoupling(4, min_bin=0.5), "SplineCoupling", ("min_bin", "got 0.5")),
        (lambda: inv.SplineCoupling(4, max_derivative=1.0), "SplineCoupling", ("max_derivative", "got 1")),
        (lambda: inv.InvertibleLinear(4, "qr"), "InvertibleLinear", ("parametrization", ONE_OF, "'plu'", "got 'qr'")),
        (lambda: inv.InvertibleConv1x1(4, "lu"), "InvertibleConv1x1", ("parametrization", ONE_OF, "got 'lu'")),
        (
            lambda: inv.InvertibleLinear(4, "plu", reflections=2),
            "InvertibleLinear",
            ("reflections with parametrization='orthogonal'", "got 'plu'"),
        ),
        (lambda: inv.InvertibleLinear(4, "orthogonal", reflections=5), "OrthogonalWeight", ("at most 4", "got 5")),
        (lambda: inv.ActNorm(0), "ActNorm", ("features", "at least 1", "got 0")),
        (lambda: inv.ActNorm(3, floor=0.0), "ActNorm", ("positive floor", "got 0")),
        (lambda: inv.DiagonalScaling(-1), "DiagonalScaling", ("features", "got -1")),
        (lambda: inv.Permutation(3, "swap"), "Permutation", ("order", "'reverse'", "got 'swap'")),
        (lambda: inv.Permutation(3, [0, 1, 1]), "Permutation", ("permutation of 0 .. 2", r"got \[0, 1, 1\]")),
        (lambda: inv.Squeeze(1), "Squeeze", ("factor of at least 2", "got 1")),
        (lambda: inv.Squeeze(order="random"), "Squeeze", ("order", ONE_OF, "got 'random'")),
        (lambda: inv.Flatten((3, 0)), "Flatten", (r"shape\[1\]", "got 0")),
        (lambda: inv.Logit(0.5), "Logit", (r"alpha in \[0, 0.5\)", "got 0.5")),
        (lambda: inv.FactorOut(inv.Chain(), kept=0), "FactorOut", ("kept of at least 1", "got 0")),
        (lambda: inv.Domain(-1.0, 1.0), "Domain", ("radii", "got x=-1")),
        (
            lambda: inv.Chain(inv.AffineCoupling(4, condition_features=2), inv.AffineCoupling(4, condition_features=3)),
            "Chain",
            ("one condition for all blocks", r"got condition_features \[2, 3\]"),
        ),
        (lambda: inv.resampled(inv.Chain()).__enter__(), "resampled", ("FactorOut blocks", "got 0")),
    ],
)
def test_arguments_that_a_constructor_refuses(call: Callable[[], object], owner: str, parts: tuple[str, ...]) -> None:
    refused(call, ConfigError, owner, *parts)


def test_a_chain_refuses_what_is_no_bijection(unchecked_types) -> None:
    with unchecked_types():
        call = lambda: inv.Chain(inv.ActNorm(3), torch.nn.ReLU())  # noqa: E731
        refused(call, ConfigError, "Chain", "expected block 1 to be a Bijection", "got ReLU", "Derive it")


# Of flows.


def flow(**options: object) -> inv.Flow:
    block = randomise(inv.AffineCoupling(2, hidden=(4,), condition_features=1))
    return inv.Flow(block, inv.StandardNormal((2,)), **options)


CALLS = {
    "log_prob": lambda f, x, c: f.log_prob(x, c),
    "bits_per_dim": lambda f, x, c: f.bits_per_dim(x, c),
    "encode": lambda f, x, c: f.encode(x, c),
    "decode": lambda f, x, c: f.decode(x, c),
}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("call", CALLS)
def test_flows_refuse_what_is_not_finite_unless_told_otherwise(call: str, value: float) -> None:
    model, x, condition = flow(), torch.randn(4, 2), torch.randn(4, 1)
    argument = "z" if call == "decode" else "x"
    remedy = r"flow\.validate = False"
    for row, column in ((1, 0), (3, 1)):
        bad = x.clone()
        bad[row, column] = value
        parts = (f"expected {argument} to be finite", "got NaN or infinity in 1 of 4", f"first in sample {row}", remedy)
        refused(lambda bad=bad: CALLS[call](model, bad, condition), DomainError, "Flow", *parts)
        model.validate = False
        CALLS[call](model, bad, condition)
        model.validate = True


@pytest.mark.parametrize("call", [*CALLS, "sample"])
def test_flows_refuse_conditions_that_are_not_finite_even_if_the_result_is(call: str) -> None:
    def bounded(a: int, b: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(a, 4), torch.nn.Tanh(), torch.nn.Linear(4, b))

    model = inv.Flow(inv.AffineCoupling(2, bounded, condition_features=1), inv.StandardNormal((2,)))
    x, condition = torch.randn(4, 2), torch.randn(4, 1)
    condition[2] = torch.inf
    run = CALLS.get(call, lambda f, x, c: f.sample(4, c))
    parts = ("expected condition to be finite", "in 1 of 4 samples", "first in sample 2", r"flow\.validate = False")
    refused(lambda: run(model, x, condition), DomainError, "Flow", *parts)


def test_flows_in_channels_last_memory_name_the_sample() -> None:
    model = inv.Flow(inv.ActNorm(3).eval(), inv.StandardNormal((3, 4, 4)))
    x = torch.randn(4, 3, 4, 4).to(memory_format=torch.channels_last)
    x[2, 1, 0, 3] = torch.nan
    refused(lambda: model.encode(x), DomainError, "Flow", "expected x to be finite", "first in sample 2")


def test_large_finite_numbers_are_no_alarm() -> None:
    model = inv.Flow(inv.Permutation(2, "reverse"), inv.StandardNormal((2,)))
    largest = torch.finfo(torch.float32).max
    assert torch.isfinite(model.encode(torch.full((4, 2), largest))).all()


@pytest.mark.parametrize("call", ["log_prob", "decode", "sample"])
def test_results_that_are_not_finite_are_refused_by_name(call: str) -> None:
    block = inv.DiagonalScaling(2)
    torch.nn.init.constant_(block.log_scale, 200.0 if call == "log_prob" else -200.0)
    model = inv.Flow(block, inv.StandardNormal((2,)))
    run = CALLS.get(call, lambda f, x, c: f.sample(4))
    parts = ("4 of 4 samples are not finite", "first is sample 0", "audit", r"flow\.validate = False")
    refused(lambda: run(model, torch.ones(4, 2), None), NotInvertibleError, f"Flow.{call}", *parts)
    model.validate = False
    run(model, torch.ones(4, 2), None)


@pytest.mark.parametrize(
    ("call", "error", "owner", "parts"),
    [
        (lambda: flow(levels=1), ConfigError, "Dequantize", ("levels of at least 2", "got 1")),
        (lambda: flow(classes=3), ConfigError, "Flow", ("classes to equal condition_features=1", "got 3")),
        (
            lambda: inv.Flow(inv.AffineCoupling(2, condition_features=2), inv.ConditionalNormal((2,), 3)),
            ConfigError,
            "Flow",
            ("one condition for bijection and base", r"got widths \[2, 3\]"),
        ),
        (
            lambda: flow().sample(-1, torch.zeros(1, 1)),
            ConfigError,
            "Flow.sample",
            ("n >= 0 and temperature >= 0", "got n=-1"),
        ),
        (
            lambda: flow().bits_per_dim(torch.zeros(4, 2, dtype=torch.uint8), torch.zeros(4, 1)),
            ShapeError,
            "Flow.bits_per_dim",
            ("got torch.uint8", "continuous data", r"x\.float\(\)"),
        ),
        (lambda: flow().log_prob(torch.zeros(4, 2)), ShapeError, "AffineCoupling", ("condition", "got none", "Pass")),
        (
            lambda: inv.Flow(inv.Chain(), inv.StandardNormal((2,))).log_prob(torch.zeros(4, 2), torch.zeros(4, 1)),
            ShapeError,
            "Chain",
            ("takes no condition", r"got one of shape \(4, 1\)", "Leave it out"),
        ),
        (lambda: inv.StandardNormal(()), ConfigError, "StandardNormal", ("shape of positive sizes", r"got \(\)")),
    ],
)
def test_wrong_use_of_flows(
    call: Callable[[], object], error: type[InvertibleError], owner: str, parts: tuple[str, ...]
) -> None:
    refused(call, error, owner, *parts)


# What must not fail.


def test_an_empty_batch_initialises_nothing() -> None:
    block = inv.ActNorm(3).train()
    y, log_det = block(torch.zeros(0, 3))
    assert (y.shape, log_det.shape) == ((0, 3), (0,))
    assert not block.initialized
    block(torch.randn(8, 3))
    assert block.initialized


def test_errors_are_what_their_bases_say() -> None:
    for error, base in (
        (ShapeError, ValueError),
        (ConfigError, ValueError),
        (DomainError, ValueError),
        (NotInvertibleError, ArithmeticError),
        (inv.ConvergenceError, ArithmeticError),
        (inv.MissingDependencyError, ImportError),
    ):
        assert issubclass(error, InvertibleError)
        assert issubclass(error, base)
