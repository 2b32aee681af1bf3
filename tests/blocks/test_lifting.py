"""Linear layers and Haar wavelets on a grid of numbers: inverses and gradients to the bit."""

import copy

import pytest
import torch
from torch.func import functional_call

from invertible import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Chain,
    ConfigError,
    FactorOut,
    Flatten,
    Haar,
    InvertibleConv1x1,
    InvertibleLinear,
    Permutation,
    ShapeError,
    Squeeze,
)
from invertible.blocks.lifting import WEIGHT_BITS, LiftingStep
from invertible.blocks.weights import LiftingWeight
from invertible.memory import Exact
from invertible.rounding import round_to_grid
from tests.tools import randomise

pytestmark = pytest.mark.usefixtures("float64")
BITS = 20
UNIT = 2.0**-BITS
SIZES = [1, 2, 5, 64]


def grid(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return round_to_grid(scale * torch.randn(*shape), BITS)


def step_of(size: int, *, bias: bool = False, deviation: float = 0.3) -> LiftingStep:
    step = randomise(InvertibleLinear(size, "lifting", bias=bias), deviation).steps()[0].exact(BITS)
    assert isinstance(step, LiftingStep)
    return step


def image_chain(memory: Exact | str) -> Chain:
    """All blocks that have an exact form, two lifting layers side by side among them."""
    coupling = AdditiveCoupling(6, hidden=(6,), spatial_dims=2)
    inner = Chain(InvertibleConv1x1(6, "lifting"), Permutation(6, seed=0), coupling)
    return Chain(
        Squeeze(),
        InvertibleConv1x1(4, "lifting"),
        InvertibleConv1x1(4, "lifting"),
        AdditiveCoupling(4, hidden=(6,), spatial_dims=2),
        Haar().inverted,
        Haar(),
        Permutation(4, "reverse"),
        Squeeze(),
        InvertibleConv1x1(16, "lifting").inverted,
        FactorOut(inner, kept=6),
        InvertibleConv1x1(16, "lifting"),
        Flatten((16, 2, 2)),
        InvertibleLinear(64, "lifting", bias=True),
        memory=memory,
    )


def gradients(chain: Chain, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y, log_det = chain(x)
    wanted = [x, *(p for p in chain.parameters() if p.requires_grad)]
    return list(torch.autograd.grad(y.square().sum() + y.sin().sum() + log_det.sum(), wanted))


# The matrix.


@pytest.mark.parametrize("size", [*SIZES, 12, 48, 192])
@torch.no_grad()
def test_starts_orthogonal_and_mixed(size: int) -> None:
    weight, log_abs_det = LiftingWeight(size)()
    assert float(log_abs_det) == 0.0
    assert torch.allclose(weight @ weight.T, torch.eye(size), atol=1e-13)
    assert float(torch.linalg.cond(weight)) < 1 + 1e-13
    if size >= 48:
        # Of a uniformly random orthogonal matrix: 3.
        assert float(size * weight.pow(4).sum(1).mean()) < 6


@torch.no_grad()
def test_starts_orthogonal_in_float32() -> None:
    torch.set_default_dtype(torch.float32)
    for size in (12, 48, 64, 192):
        assert float(torch.linalg.cond(LiftingWeight(size)()[0].double())) < 1 + 1e-5


@pytest.mark.parametrize("size", [*SIZES, 12])
@torch.no_grad()
def test_matrix_has_determinant_1_and_its_inverse_undoes_it(size: int) -> None:
    weight = randomise(LiftingWeight(size))
    matrix, log_abs_det = weight()
    inverse, log_abs_det_back = weight.inverse()
    condition = float(torch.linalg.cond(matrix))
    assert float(log_abs_det) == float(log_abs_det_back) == 0.0
    assert float(torch.linalg.det(matrix)) == pytest.approx(1.0, abs=1e-11 * condition)
    assert (matrix @ inverse - torch.eye(size)).abs().max() < 1e-14 * condition * size


@pytest.mark.parametrize("size", [2, 4, 6, 8])
def test_parameters_move_the_matrix_in_as_many_directions_as_documented(size: int) -> None:
    weight = randomise(LiftingWeight(size))
    names = dict(weight.named_parameters())
    jacobian = torch.func.jacrev(lambda values: functional_call(weight, values, ())[0])(
        {name: value.detach() for name, value in names.items()}
    )
    together = torch.cat([each.reshape(size**2, -1) for each in jacobian.values()], 1)
    assert int(torch.linalg.matrix_rank(together, rtol=1e-10)) == size**2 - size // 2


# The step on the grid.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spatial", [(), (7,), (3, 5), (2, 3, 2)], ids=len)
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_round_trips_to_the_bit(size: int, spatial: tuple[int, ...], bias: bool) -> None:
    for scale in (1.0, 100.0):
        step, x = step_of(size, bias=bias), grid(6, size, *spatial, scale=scale)
        (y,), log_det = step.run((x,), None)
        assert log_det is None
        assert y.shape == x.shape
        assert torch.equal(y, round_to_grid(y, BITS))
        assert torch.equal(step.invert((y,), None)[0], x)
        assert torch.equal(step.inverted.run((y,), None)[0][0], x)
        # Neither the layout nor the number of samples plays a role.
        strided = y.movedim(1, -1).contiguous().movedim(-1, 1)
        assert torch.equal(step.invert((strided,), None)[0], x)
        assert torch.equal(step.invert((y[2:3],), None)[0], x[2:3])


@torch.no_grad()
def test_round_trips_to_the_bit_of_large_numbers_and_on_other_grids() -> None:
    for bits, scale in ((1, 1e6), (8, 1e6), (20, 1e6), (30, 1e3), (40, 10.0)):
        step = step_of(24).exact(bits)
        x = round_to_grid(scale * torch.randn(32, 24), bits)
        (y,), _ = step.run((x,), None)
        assert torch.equal(step.invert((y,), None)[0], x)


@torch.no_grad()
def test_a_thousand_compositions_round_trip_to_the_bit() -> None:
    steps = [step_of(64, bias=True, deviation=0.01) for _ in range(50)]
    state = x = (grid(4, 64),)
    for _ in range(20):
        for step in steps:
            state, _ = step.run(state, None)
    assert not torch.equal(state[0], x[0])
    for _ in range(20):
        for step in reversed(steps):
            state = step.invert(state, None)
    assert torch.equal(state[0], x[0])


@pytest.mark.parametrize("size", [2, 5, 64])
@torch.no_grad()
def test_step_is_the_matrix_within_rounding(size: int) -> None:
    block = randomise(InvertibleLinear(size, "lifting", bias=True), 0.02)
    x = grid(64, size)
    difference = block.steps()[0].exact(BITS).run((x,), None)[0][0] - block(x)[0]
    norm, root = block.bounds().forward, size**0.5
    assert difference.square().mean().sqrt() < (1 + root / 4) * norm * UNIT + root / 4 * 2.0**-WEIGHT_BITS


@pytest.mark.parametrize("size", [2, 5, 64])
def test_gradients_are_those_of_the_unrounded_map_within_rounding(size: int) -> None:
    for kind, spatial in ((InvertibleLinear, ()), (InvertibleConv1x1, (3, 4))):
        block = randomise(kind(size, "lifting"), 0.05)
        exact, stored = Chain(block, memory=Exact(keep="store")), Chain(block)
        x = grid(4, size, *spatial)
        for ours, plain in zip(gradients(exact, x), gradients(stored, x), strict=True):
            assert (ours - plain).norm() < 1e-3 * plain.norm()


def test_gradients_to_the_parameters_pass_the_rounding_of_each_shear() -> None:
    block = randomise(InvertibleLinear(5, "lifting"), 0.1)
    (y,), _ = block.steps()[0].exact(BITS).run((grid(3, 5),), None)
    y.square().sum().backward()
    assert all(p.grad is not None and (p.grad != 0).all() for p in block.parameters())


def test_refuses_a_wrong_number_of_channels() -> None:
    with pytest.raises(ShapeError, match=r"InvertibleLinear: expected x of shape \(batch, 5"):
        Chain(InvertibleLinear(5, "lifting"), memory="exact")(torch.randn(2, 4))


# Haar.


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e3])
@torch.no_grad()
def test_haar_is_exact_and_close_to_the_transform(inverted: bool, scale: float) -> None:
    block = Haar().inverted if inverted else Haar()
    chain = Chain(block, memory="exact")
    x = grid(8, 8, 6, 4, scale=scale)
    y, log_det = chain(x)
    assert not log_det.any()
    assert torch.equal(y, round_to_grid(y, BITS))
    assert (y - block(x)[0]).abs().max() < 2.6 * UNIT
    assert torch.equal(chain.inverse(y)[0], x)


def test_haar_gradients_are_those_of_the_transform() -> None:
    for block in (Haar(), Haar().inverted):
        x, weights = grid(2, 4, 4, 6).requires_grad_(), None
        for memory in (Exact(), Exact(keep="store"), "store"):
            y, _ = Chain(block, memory=memory)(x)
            weights = torch.randn_like(y) if weights is None else weights
            (gradient,) = torch.autograd.grad((weights * y).sum(), x)
            expected = block.inverse(weights)[0]
            assert torch.allclose(gradient, expected, atol=1e-13)


def test_haar_refuses_odd_images_on_the_grid() -> None:
    chain = Chain(Haar(), memory="exact")
    with pytest.raises(ShapeError, match="even height and width"):
        chain(torch.randn(2, 1, 3, 4))
    with pytest.raises(ShapeError, match="divisible by 4"):
        chain.inverse(torch.randn(2, 3, 4, 4))
    with pytest.raises(ShapeError, match="height, width"):
        chain(torch.randn(2, 4))


# Chains.


@torch.no_grad()
def test_a_chain_of_all_exact_blocks_round_trips_to_the_bit() -> None:
    chain = randomise(image_chain("exact"), 0.05)
    x = grid(4, 1, 8, 8)
    y, log_det = chain(x)
    back, log_det_back = chain.inverse(y)
    assert torch.equal(back, x)
    assert not log_det.any()
    assert not log_det_back.any()
    forth, _ = chain.inverted(x.reshape(4, 64))
    assert torch.equal(chain(forth)[0], x.reshape(4, 64))
    plain = copy.deepcopy(chain)
    plain.memory = "store"
    assert (plain(x)[0] - y).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rebuilding_gives_the_gradients_of_storing_to_the_bit(dtype: torch.dtype) -> None:
    chain = randomise(image_chain(Exact()), 0.05).to(dtype)
    x = grid(4, 1, 8, 8).to(dtype)
    rebuilt = gradients(chain, x)
    assert chain.memory_log.alarms == 0
    stored = copy.deepcopy(chain)
    stored.memory = Exact(keep="store")
    for ours, expected in zip(rebuilt, gradients(stored, x), strict=True):
        assert ours.dtype == dtype
        assert torch.equal(ours, expected)


def test_deep_runs_of_linear_layers_train_on_the_output_alone() -> None:
    layers = [randomise(InvertibleLinear(8, "lifting", bias=True), 0.02) for _ in range(12)]
    blocks = [layers[0], *(block for layer in layers[1:] for block in (AdditiveCoupling(8, hidden=(6,)), layer))]
    x = grid(4, 8)
    first, second = (Chain(*blocks, memory=Exact(keep=keep)) for keep in ("output", "store"))
    assert all(torch.equal(a, b) for a, b in zip(gradients(first, x), gradients(second, x), strict=True))
    assert first.memory_log.alarms == 0


def test_the_inverse_direction_trains_too() -> None:
    block = randomise(InvertibleConv1x1(6, "lifting"), 0.1)
    x = grid(2, 6, 3, 3)
    found = [gradients(Chain(block.inverted, memory=Exact(keep=keep)), x) for keep in ("output", "store")]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("block", "name"),
    [
        (ActNorm(4), "ActNorm"),
        (AffineCoupling(4, hidden=(6,)), "AffineCoupling"),
        (InvertibleLinear(4), "InvertibleLinear"),
        (InvertibleLinear(4, "orthogonal").inverted, "InvertibleLinear"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("linear", [True, False], ids=["in a run", "alone"])
def test_blocks_without_an_exact_form_are_named(block: torch.nn.Module, name: str, linear: bool) -> None:
    blocks = [InvertibleLinear(4, "lifting"), block, InvertibleLinear(4, "lifting")] if linear else [block]
    chain = Chain(*blocks, memory="exact")
    for direction in (chain, chain.inverse):
        with pytest.raises(ConfigError, match=f"memory: {name} has no exact form.*parametrization='lifting'"):
            direction(torch.randn(4, 4))
