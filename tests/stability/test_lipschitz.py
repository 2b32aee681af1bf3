"""No measured singular value ever exceeds its bound, and the check of that can fail."""

import dataclasses
import math

import pytest
import torch
from torch import nn

import invertible as inv
from invertible import Bijection, Domain, LipschitzBounds
from invertible.ball import Ball
from invertible.blocks.affine import AffineMap
from invertible.blocks.elementwise import ElementwiseMap
from invertible.blocks.scale import SCALES
from invertible.errors import ConfigError
from invertible.norms import lipschitz_bound, matrix_norm
from invertible.stability.lipschitz import (
    LipschitzTable,
    additive_bounds,
    lipschitz_bounds,
    ode_bounds,
    residual_bounds,
)
from tests.registry import BLOCKS
from tests.stability.maps import Shift
from tests.tools import randomise

# Rounding of float64 Jacobians, not of bounds.
SLACK = 1 + 1e-9
DEVIATIONS = (0.03, 0.3, 1.0)


def largest(direction, value: torch.Tensor, condition: torch.Tensor | None) -> tuple[float, torch.Tensor]:
    """The largest singular value of a direction's Jacobian in a batch, and its output."""
    value = value.detach().clone().requires_grad_()
    output = direction(value, condition)[0]
    rows = [
        torch.autograd.grad(column.sum(), value, retain_graph=True, materialize_grads=True, allow_unused=True)[0]
        for column in output.flatten(1).unbind(1)
        if column.requires_grad
    ]
    jacobian = torch.stack([row.flatten(1) for row in rows], 1)
    finite = jacobian.isfinite().flatten(1).all(1)
    assert bool(finite.any())
    return float(torch.linalg.matrix_norm(jacobian[finite], 2).max()), output.detach()


def worst_ratio(block: Bijection, x: torch.Tensor, condition: torch.Tensor | None, bounds, image=None) -> float:
    """What was measured over what was promised, at most 1 if the promises hold; x within the box and f(x) too."""
    there, y = largest(block, x, condition)
    back, again = largest(block.inverse, y, condition)
    pairs = [(there, bounds.forward), (back, bounds.inverse)]
    # Secants are chords of the function, not of its derivative.
    shuffled = x.roll(1, 0)
    steps, moved = (
        (a - b).flatten(1).norm(dim=1) for a, b in ((x, shuffled), (y, block(shuffled, condition)[0].detach()))
    )
    if len(x) > 1 and not block.condition_features:
        pairs += [(float((moved / steps).max()), bounds.forward), (float((steps / moved).max()), bounds.inverse)]
    if image is not None:
        pairs += [(float(y.abs().max()), image.y), (float(again.abs().max()), image.x)]
        if isinstance(image, Ball):
            lengths = (float(each.flatten(1).norm(dim=1).max()) for each in (y, again))
            pairs += list(zip(lengths, image.norms[::-1], strict=True))
    return max(0.0 if math.isinf(bound) or value == 0 else value / bound for value, bound in pairs)


def instance(name: str, deviation: float, samples: int = 4, size: float = 1.0):
    """A random instance of the table, points on which it is defined, and a condition."""
    entry = BLOCKS[name]
    block = randomise(entry.build().double(), deviation * (0.3 if "spline" in name or "chain" in name else 1))
    draw = torch.rand if entry.unit else torch.randn
    x = draw(samples, *entry.shape, dtype=torch.float64) * (1.0 if entry.unit else size)
    # Corners of the box are where affine maps are steepest.
    if not entry.unit:
        x[: samples // 2] = x[: samples // 2].sign() * x.abs().max()
    condition = None if entry.condition is None else torch.randn(samples, *entry.condition, dtype=torch.float64)
    # Whatever initialises itself from data does so now; an inverted block does in its inverse.
    many = None if condition is None else condition[:1].repeat_interleave(16, 0)
    block.inverse(block(draw(16, *entry.shape, dtype=torch.float64), many)[0], many)
    return block, x, condition


def checked(name: str, deviation: float, size: float) -> float:
    block, x, condition = instance(name, deviation, size=size)
    y = block(x, condition)[0].detach()
    domain = Domain(float(x.abs().max()), float(y.abs().max()))
    lengths = [float(each.flatten(1).norm(dim=1).max()) for each in (x, y)]
    ball = Ball(domain.x, domain.y, *lengths, x[0].numel())
    ratios = [worst_ratio(block, x, condition, block.bounds())]
    for where in (domain, ball):
        ratios.append(worst_ratio(block, x, condition, block.bounds(where), block.image(where)))
    return max(ratios)


@pytest.mark.parametrize("name", list(BLOCKS))
def test_no_singular_value_exceeds_its_bound(name: str) -> None:
    for deviation, size in zip(DEVIATIONS, (3.0, 0.5, 1.0), strict=True):
        assert checked(name, deviation, size) <= SLACK


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BLOCKS))
def test_no_singular_value_exceeds_its_bound_in_many_more_instances(name: str) -> None:
    for repeat in range(20):
        for deviation in DEVIATIONS:
            assert checked(name, deviation, 10 ** (repeat / 10 - 1)) <= SLACK


VECTORS = [name for name, e in BLOCKS.items() if e.shape == (6,) and e.condition is None and not e.unit]
ONTO_A_PART = ("tanh", "sigmoid", "softplus")


@pytest.mark.parametrize("length", [2, 3, 5])
def test_no_singular_value_of_a_random_chain_exceeds_its_bound(length: int) -> None:
    choices = [name for name in VECTORS if name not in ONTO_A_PART]
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        names = [choices[int(i)] for i in torch.randint(len(choices), (length,), generator=generator)]
        chain = inv.Chain(*[instance(name, 0.1)[0] for name in names])
        x = torch.randn(4, 6, dtype=torch.float64)
        y = chain(x)[0].detach()
        ball = Ball(float(x.abs().max()), float(y.abs().max()), math.inf, math.inf, dimensions=6)
        for where in (Domain(ball.x, ball.y), ball):
            bounds = lipschitz_bounds(chain, where)
            assert worst_ratio(chain, x, None, bounds, chain.image(where)) <= SLACK, names
        assert worst_ratio(chain, x, None, lipschitz_bounds(chain)) <= SLACK, names


# Bounds that some point attains within a factor of two: halved, they must be caught.
TIGHT = [
    name
    for name in BLOCKS
    if name.split("-")[0] in ("actnorm", "scaling", "permutation", "squeeze", "haar", "linear", "conv1x1", "flatten")
    or name in ("batch-norm", "leaky-relu", "tanh", "sigmoid", "softplus", "chain-empty", "chain-run-of-scalings")
]


@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("name", TIGHT)
def test_a_halved_bound_is_caught(name: str, direction: str) -> None:
    block, x, condition = instance(name, 0.1, samples=64, size=0.2)
    bounds = block.bounds()
    if math.isinf(getattr(bounds, direction)):
        bounds = block.bounds(Domain(math.inf, float(block(x, condition)[0].abs().max())))
    if math.isinf(getattr(bounds, direction)):
        pytest.skip("has no bound to halve")
    assert worst_ratio(block, x, condition, bounds) <= SLACK
    halved = dataclasses.replace(bounds, **{direction: getattr(bounds, direction) / 2})
    assert worst_ratio(block, x, condition, halved) > 1


class HalvedImage(inv.DiagonalScaling):
    def image(self, domain):
        image = super().image(domain)
        return Domain(image.x / 2, image.y / 2)


def test_a_halved_image_is_caught() -> None:
    block, x = HalvedImage(6).double(), torch.randn(4, 6, dtype=torch.float64)
    domain = Domain(float(x.abs().max()), float(x.abs().max()))
    assert worst_ratio(block, x, None, block.bounds(domain), block.image(domain)) > 1


# Couplings in closed form.


def linear_net(deviation: float):
    def net(inputs: int, outputs: int) -> nn.Module:
        layer = nn.Linear(inputs, outputs)
        nn.init.normal_(layer.weight, std=deviation)
        return layer

    return net


@pytest.mark.parametrize("deviation", [1e-6, 0.1, 1.0, 10.0])
def test_additive_coupling_is_exact_for_a_linear_conditioner(deviation: float) -> None:
    block = inv.AdditiveCoupling(6, linear_net(deviation)).double()
    measured, _ = largest(block, torch.randn(2, 6, dtype=torch.float64), None)
    tau = matrix_norm(block.net.weight)
    for bound in (block.bounds().forward, block.bounds().inverse, lipschitz_bounds(block).forward):
        assert bound == pytest.approx((tau + math.sqrt(tau**2 + 4)) / 2, rel=1e-12)
        assert measured == pytest.approx(bound, rel=1e-12)
        assert bound <= additive_bounds(tau, exact=False).forward == pytest.approx(1 + tau)


@pytest.mark.parametrize("order", ["realnvp", "glow"])
def test_affine_couplings_stretch_in_proportion_to_the_part_that_they_scale(order: str) -> None:
    """sigma_max grows like |x_2| at every point, and so does the bound with the box."""
    block = randomise(inv.AffineCoupling(4, hidden=(8,), order=order).double(), 0.5)
    passive = torch.randn(64, 2, dtype=torch.float64)
    measured, bounds = [], []
    for radius in (1e2, 1e3, 1e4):
        x = torch.cat((passive.clamp(-1, 1), torch.full((64, 2), radius, dtype=torch.float64)), 1)
        measured.append(largest(block, x, None)[0])
        bounds.append(block.bounds(Domain(radius, 1.0)).forward)
    for values in (measured, bounds):
        assert values[1] / values[0] == pytest.approx(10, rel=0.3)
        assert values[2] / values[1] == pytest.approx(10, rel=0.1)
    assert all(m <= b for m, b in zip(measured, bounds, strict=True))
    additive = randomise(inv.AdditiveCoupling(4, hidden=(8,)).double(), 0.5)
    assert additive.bounds(Domain(1e4, 1e4)) == additive.bounds(Domain(1.0, 1.0)) == additive.bounds()


@pytest.mark.parametrize("order", ["realnvp", "glow"])
@pytest.mark.parametrize("scale", sorted(SCALES))
def test_affine_couplings_have_local_bounds_for_every_scale(scale: str, order: str) -> None:
    block = randomise(inv.AffineCoupling(6, hidden=(8,), scale=scale, order=order).double(), 0.2)
    assert lipschitz_bounds(block).forward == math.inf
    box, ball = block.bounds(Domain(2.0, 2.0)), block.bounds(Ball(2.0, 2.0))
    assert all(map(math.isfinite, (box.forward, box.inverse, ball.forward, ball.inverse)))
    assert ball.forward <= box.forward
    assert ball.inverse <= box.inverse
    for radius in (0.0, 0.7, 5.0):
        local, raw = SCALES[scale]().within(radius), torch.linspace(-radius, radius, 2001, dtype=torch.float64)
        g, _ = SCALES[scale]()(raw.requires_grad_())
        (slope,) = torch.autograd.grad(g.sum(), raw, retain_graph=True)
        (reciprocal,) = torch.autograd.grad((1 / g).sum(), raw)
        assert local.lower <= float(g.detach().min()) * SLACK
        assert float(g.detach().max()) <= local.upper * SLACK
        assert float(slope.abs().max()) <= local.slope * SLACK
        assert float(reciprocal.abs().max()) <= local.reciprocal_slope * SLACK


def test_affine_bounds_use_less_than_the_papers_sum() -> None:
    scale = SCALES["half-sigmoid"]()
    tight = AffineMap(scale, "realnvp").bounds(0.7, Domain(1.0, 1.0), Domain(3.0, 3.0))
    m = 3 * scale.slope * 0.7 + 0.7
    assert 1 < tight.forward < 1 + m


def test_image_couplings_have_bounds_on_boxes_at_any_size() -> None:
    block = randomise(inv.AffineCoupling(4, hidden=(6, 6), spatial_dims=2).double(), 0.1)
    bounds = block.bounds(Domain(3.0, 3.0))
    for size in (2, 5):
        x = (6 * torch.rand(2, 4, size, size, dtype=torch.float64) - 3).sign() * 3
        assert largest(block, x, None)[0] <= bounds.forward * SLACK
        assert largest(block.inverse, x, None)[0] <= bounds.inverse * SLACK


@pytest.mark.parametrize("options", [{}, {"bins": 2, "bound": 1.0}, {"bins": 5, "min_bin": 0.1, "max_derivative": 3.0}])
def test_spline_bounds_hold_for_strong_parameters(options: dict) -> None:
    """Parameters are moved themselves: the conditioner is linear, so that y's slope in them is measured."""
    for deviation in (0.3, 3.0, 30.0):
        block = inv.SplineCoupling(2, linear_net(deviation), **options).double()
        passive, active = torch.randn(256, 1), 2 * block.elementwise.bound * (torch.rand(256, 1) - 0.5)
        x = torch.cat((passive, active), 1).double()
        assert math.isfinite(block.bounds().forward)
        assert math.isfinite(block.bounds().inverse)
        assert largest(block, x, None)[0] <= block.bounds().forward
        assert largest(block.inverse, x, None)[0] <= block.bounds().inverse
    assert isinstance(block.elementwise, ElementwiseMap)


# The table.


def deep() -> inv.Chain:
    return randomise(
        inv.Chain(
            inv.ActNorm(4),
            inv.Chain(inv.InvertibleLinear(4), inv.LeakyReLU(0.5), inv.AdditiveCoupling(4)).inverted,
            inv.FactorOut(inv.Chain(inv.AffineCoupling(2), inv.ActNorm(2))),
            inv.AffineCoupling(4),
        ).double(),
        0.1,
    )


def test_blocks_stand_in_the_order_of_the_data_and_multiply_up() -> None:
    table = lipschitz_bounds(deep(), Domain(2.0, 2.0))
    assert [block.path for block in table.blocks] == [
        "bijection.blocks[0] (ActNorm)",
        "bijection.blocks[1].bijection.blocks[2] (AdditiveCoupling)",
        "bijection.blocks[1].bijection.blocks[1] (LeakyReLU)",
        "bijection.blocks[1].bijection.blocks[0] (InvertibleLinear)",
        "bijection.blocks[2].inner.blocks[0] (AffineCoupling)",
        "bijection.blocks[2].inner.blocks[1] (ActNorm)",
        "bijection.blocks[3] (AffineCoupling)",
    ]
    assert isinstance(table, LipschitzBounds)
    relu = table.blocks[2]
    assert (relu.bounds.forward, relu.kind) == (pytest.approx(2.0), "LeakyReLU")
    first = table.blocks[0].bounds
    assert table.blocks[0].product == first
    assert table.blocks[1].product.forward == pytest.approx(first.forward * table.blocks[1].bounds.forward)
    whole = deep()
    assert lipschitz_bounds(whole, Domain(2.0, 2.0)).forward == pytest.approx(whole.bounds(Domain(2.0, 2.0)).forward)
    # A part that is passed by keeps its length: the container's bound, not its inner block's, goes on.
    last = table.blocks[-1]
    assert last.product.forward == pytest.approx(table.forward)
    assert last.product.inverse == pytest.approx(table.inverse)


def test_boxes_in_the_table_hold_what_reaches_the_blocks() -> None:
    chain, seen = deep(), {}
    table = lipschitz_bounds(chain, Domain(2.0, math.inf))
    for index in (0, 3):
        chain[index].register_forward_pre_hook(lambda _, args, index=index: seen.__setitem__(index, args[0]))
    with torch.no_grad():
        chain(4 * torch.rand(256, 4, dtype=torch.float64) - 2)
    assert float(seen[0].abs().max()) <= table.blocks[0].domain.x == 2.0
    assert float(seen[3].abs().max()) <= table.blocks[-1].domain.x


def test_balls_follow_lengths_where_boxes_grow() -> None:
    chain = inv.Chain(*[inv.InvertibleLinear(16, "orthogonal") for _ in range(6)], inv.AffineCoupling(16))
    box = lipschitz_bounds(randomise(chain), Domain(1.0, 1.0)).blocks[-1].domain
    ball = lipschitz_bounds(chain, Ball(1.0, 1.0)).blocks[-1].domain
    assert ball.x == pytest.approx(1.0)
    assert box.x > 100
    boxed = lipschitz_bounds(chain, Ball(1.0, 1.0, math.inf, math.inf, dimensions=16)).blocks[-1].domain
    assert boxed.x == pytest.approx(4.0)
    with pytest.raises(ConfigError, match="dimensions of at least 1"):
        Ball(1.0, 1.0, dimensions=0)
    with pytest.raises(ConfigError, match="x_norm >= 0"):
        Ball(1.0, 1.0, x_norm=-1.0)


def test_reasons_name_what_to_do() -> None:
    bilinear = lambda a, b: nn.Bilinear(a, a, b)  # noqa: E731
    normed = lambda a, b: nn.Sequential(nn.Linear(a, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, b))  # noqa: E731
    for block, domain, words in (
        (inv.AffineCoupling(4), None, "infinite on the whole space; pass domain=Domain(x=3, y=5)"),
        (inv.AdditiveCoupling(4, bilinear), None, "the norm of Bilinear is not known"),
        (inv.AdditiveCoupling(4, normed), None, "BatchNorm1d has no bound in training mode: call eval()"),
        (inv.BatchNorm(4), None, "no bound in training mode: call eval()"),
        (Shift(), None, "Shift declares no bounds: define bounds(domain)"),
        (inv.Softplus(), None, "no finite bound exists or is known"),
        (inv.Logit(), Domain(2.0, 2.0), "no finite bound exists or is known on the boxes that reach it"),
        (inv.Chain(Shift(), randomise(inv.AffineCoupling(4))), Domain(3.0, 3.0), "Shift declares no bounds"),
    ):
        table = lipschitz_bounds(randomise(block), domain)
        reasons = " ".join(reason for _, reason in table.reasons)
        assert words in reasons, reasons
        assert words in str(table)
    singular = inv.InvertibleLinear(3, "free")
    nn.init.zeros_(singular.weight.matrix)
    assert lipschitz_bounds(singular).reasons[0][1] == "no finite bound exists or is known"
    conditional = randomise(inv.AffineCoupling(4, condition_features=2))
    assert "its condition may be of any size" in lipschitz_bounds(conditional, Domain(1.0, 1.0)).reasons[0][1]
    lost = lipschitz_bounds(inv.Chain(Shift(), randomise(inv.AffineCoupling(4))), Domain(3.0, 3.0)).reasons[1][1]
    assert "its box of inputs is infinite" in lost
    assert lipschitz_bounds(inv.AdditiveCoupling(4, normed).eval()).reasons == ()


class Doubling(Shift):
    """A block of one's own with bounds, and a container of one's own around two others."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def bounds(self, domain=None):
        a, b = self.first.bounds(domain), self.second.bounds(domain)
        return LipschitzBounds(max(a.forward, b.forward), max(a.inverse, b.inverse))


def test_containers_and_conditioners_of_ones_own_take_part() -> None:
    class Net(nn.Linear):
        def forward(self, x):
            return torch.sin(super().forward(x))

        def lipschitz_bound(self):
            return matrix_norm(self.weight)

    block = inv.AdditiveCoupling(4, Net)
    table = lipschitz_bounds(inv.Chain(Doubling(block, inv.LeakyReLU(0.25)), inv.ActNorm(4)))
    assert [b.kind for b in table.blocks] == ["AdditiveCoupling", "LeakyReLU", "ActNorm"]
    assert table.inverse == pytest.approx(max(4.0, block.bounds().inverse))
    assert lipschitz_bound(block.net) == pytest.approx(
        float(torch.linalg.matrix_norm(block.net.weight.detach(), 2)), rel=1e-6
    )


def test_a_block_in_two_places_stands_twice() -> None:
    shared = inv.LeakyReLU(0.5)
    table = lipschitz_bounds(inv.Chain(shared, inv.Chain(shared), shared.inverted))
    assert [block.path for block in table.blocks] == [
        "bijection.blocks[0] (LeakyReLU)",
        "bijection.blocks[1].blocks[0] (LeakyReLU)",
        "bijection.blocks[2].bijection (LeakyReLU)",
    ]
    assert table.inverse == pytest.approx(4.0)
    assert table.forward == pytest.approx(2.0)


def test_the_table_reads_well_and_a_flow_is_taken() -> None:
    flow = inv.models.realnvp(6, layers=2, hidden=(8,))
    flow.log_prob(torch.randn(16, 6))
    text = str(lipschitz_bounds(randomise(flow, 0.05), Domain(3, 5)))
    lines = text.splitlines()
    assert lines[0].startswith("Flow: Lip(f) <= ")
    assert "on |x_i| <= 3, |y_i| <= 5" in lines[0]
    assert lines[3].split() == ["block", "|x_i|", "<=", "|y_i|", "<=", "Lip(f)", "Lip(f^-1)", "product", "of", "f^-1"]
    assert len({len(line) for line in lines[3:]}) == 1
    assert "|x|_2 <= 3" in str(lipschitz_bounds(flow, Ball(3.0, 3.0)))
    assert str(lipschitz_bounds(inv.Chain())).startswith("Chain: Lip(f) <= 1,")
    with pytest.raises(ConfigError, match="expected a Bijection"):
        lipschitz_bounds(nn.Linear(2, 2))


def test_the_model_comes_out_as_it_went_in() -> None:
    spectral = lambda a, b: nn.utils.parametrizations.spectral_norm(nn.Linear(a, b))  # noqa: E731
    chain = inv.Chain(inv.AdditiveCoupling(4, spectral), inv.BatchNorm(4))
    before = {name: value.clone() for name, value in chain.state_dict().items()}
    state = torch.random.get_rng_state()
    lipschitz_bounds(chain, Domain(1.0, 1.0))
    assert all(torch.equal(value, before[name]) for name, value in chain.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(module.training for module in chain.modules())
    assert not {"bounds", "image"} & set(chain.__dict__)
    assert isinstance(lipschitz_bounds(chain), LipschitzTable)


def test_residual_and_ode_bounds() -> None:
    assert residual_bounds(0.5).inverse == pytest.approx(2.0)
    assert ode_bounds(3.0).forward == pytest.approx(math.exp(3.0))
    both = ode_bounds(3.0, largest=-0.5, smallest=-4.0)
    assert (both.forward, both.inverse) == (pytest.approx(math.exp(-0.5)), pytest.approx(math.exp(3.0)))
    spans = ode_bounds(2.0, [0.5, 0.25], largest=[1.0, 0.0], smallest=[0.0, -1.0])
    assert (spans.forward, spans.inverse) == (pytest.approx(math.exp(0.5)), pytest.approx(math.exp(0.25)))
    with pytest.raises(ConfigError, match="expected lipschitz, or largest and smallest"):
        ode_bounds(largest=1.0)


# Batch normalisation in training mode, which no law of single samples covers.


@pytest.mark.parametrize("memory", ["store", "checkpoint", "reversible", "recursive"])
def test_batch_norm_trains_alike_under_every_strategy(memory: str) -> None:
    torch.manual_seed(3)
    blocks = (inv.BatchNorm(4), inv.AffineCoupling(4, hidden=(8,)), inv.BatchNorm(4), inv.AffineCoupling(4, flip=True))
    chain = randomise(inv.Chain(*blocks).double())
    start = {name: value.clone() for name, value in chain.state_dict().items()}
    x = 3 + 2 * torch.randn(16, 4, dtype=torch.float64)

    def trained(strategy: str) -> list[torch.Tensor]:
        chain.load_state_dict(start)
        chain.memory = strategy
        leaf = x.clone().requires_grad_()
        y, log_det = chain(leaf)
        chain.zero_grad()
        (y.square().sum() - log_det.sum()).backward()
        gradients = [leaf.grad, *(parameter.grad for parameter in chain.parameters())]
        return [*gradients, *(buffer.clone() for buffer in chain.buffers())]

    for other, reference in zip(trained(memory), trained("store"), strict=True):
        assert torch.allclose(other, reference, rtol=1e-7, atol=1e-9)


def test_batch_norm_is_torchs_and_follows_the_batch() -> None:
    ours, torchs = inv.BatchNorm(3).double(), nn.BatchNorm2d(3).double()
    x = 2 + torch.randn(8, 3, 4, 4, dtype=torch.float64)
    y, log_det = ours(x)
    assert torch.allclose(y, torchs(x))
    assert torch.allclose(ours.running_mean, torchs.running_mean)
    assert torch.allclose(ours.running_var, 0.9 + 0.1 * x.var((0, 2, 3), correction=0))
    assert torch.allclose(log_det, -8 * torch.log(x.var((0, 2, 3), correction=0) + 1e-5).sum().expand(8))
    with pytest.raises(inv.NotInvertibleError, match="expected eval mode"):
        ours.inverse(y)
    assert ours.bounds() == LipschitzBounds(math.inf, math.inf)
    ours.eval()
    assert torch.allclose(ours.inverse(ours(x)[0])[0], x)
    for options, words in (({"momentum": 0.0}, "momentum in"), ({"epsilon": 0.0}, "positive epsilon")):
        with pytest.raises(ConfigError, match=words):
            inv.BatchNorm(3, **options)


@pytest.mark.parametrize("block", [inv.Tanh(), inv.Sigmoid(), inv.Softplus()], ids=lambda b: type(b).__name__)
def test_activations_refuse_what_they_cannot_have_given(block: Bijection) -> None:
    with pytest.raises(inv.DomainError, match=rf"{type(block).__name__}: expected y in \("):
        block.inverse(torch.tensor([[-1.5, 0.5]]))
    with pytest.raises(inv.DomainError):
        block.inverse(torch.tensor([[math.nan, 0.5]]))
    with pytest.raises(ConfigError, match="positive finite slope"):
        inv.LeakyReLU(0.0)
