"""Sequences of bijections and other modules: gradients under every strategy, inverses, errors."""

import copy

import pytest
import torch
from torch import nn

import invertible as inv
from invertible import ConfigError, NotInvertibleError, memory
from tests.memory.networks import STRATEGIES, assert_same, convnet, gradients


class Doubled(nn.Module):
    """Invertible, and no `Bijection`."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.scale * x

    def inverse(self, y):
        return y / self.scale


class Counting(nn.Module):
    """Gives other values whenever it is run."""

    def __init__(self):
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(())), [0]

    def forward(self, x):
        self.calls[0] += 1
        return x * self.weight + self.calls[0] * x.square()


def function(channels, out, *inner):
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, out, 3, padding=1), *inner)


def residual(channels=4, *inner):
    return inv.ReversibleResidual(function(channels // 2, channels // 2, *inner), convnet(channels // 2))


def smooth(channels):
    return inv.ReversibleResidual(convnet(channels // 2), convnet(channels // 2))


def network(*inner):
    """A stem, units, a strided layer, an invertible module that is no block, padding, and units again."""
    return inv.Sequential(
        inv.Standardise(2),
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True)),
        *(residual(4, *inner) for _ in range(3)),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        Doubled(),
        inv.ChannelPadding(6, 8),
        inv.Chain(smooth(8), inv.ActNorm(8), residual(8)),
        inv.Sequential(residual(8), Doubled()),
        inv.Sequential(inv.ChannelPadding(8, 12), residual(12), residual(12), keep_input=True),
        residual(12),
        nn.AvgPool2d(2),
    )


def trained(net, x, steps=2):
    """Gradients of two steps in training mode, the result, and the buffers."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    for _ in range(steps):
        y = net(x)
        (y.square() * torch.linspace(0.5, 1.5, y[0].numel(), dtype=y.dtype).view(y[0].shape)).sum().backward()
    return [x.grad, *gradients(net)], y.detach(), dict(net.named_buffers())


@pytest.mark.parametrize("strategy", [*STRATEGIES.values(), "512KiB"], ids=[*STRATEGIES, "text"])
@pytest.mark.parametrize("dropout", [False, True], ids=["plain", "dropout"])
def test_gradients_results_and_statistics_are_those_of_stored_training(strategy, dropout):
    torch.manual_seed(0)
    net = network(*([nn.Dropout(0.3)] if dropout else [])).double()
    x = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    net(x)
    stored, other = copy.deepcopy(net), copy.deepcopy(net)
    inv.set_memory(other, strategy)
    (expected, y0, buffers0), (found, y, buffers) = trained(stored, x), trained(other, x)
    assert torch.equal(y, y0)
    assert_same(found, expected, 1e-11)
    assert all(torch.equal(buffers[name], buffers0[name]) for name in buffers0)
    assert memory.report(other).alarms == 0


def test_exact_gradients_are_those_of_the_stored_exact_network_to_the_bit():
    torch.manual_seed(0)
    net = inv.Sequential(
        inv.Standardise(2),
        nn.Conv2d(2, 4, 3, padding=1),
        *(residual(4) for _ in range(4)),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        inv.ChannelPadding(6, 8),
        *(residual(8) for _ in range(4)),
    )
    x = torch.randn(4, 2, 8, 8)
    stored, exact = copy.deepcopy(net), copy.deepcopy(net)
    stored.memory, exact.memory = memory.Exact(keep="store"), memory.Exact()
    (expected, y0, _), (found, y, _) = trained(stored, x), trained(exact, x)
    assert torch.equal(y, y0)
    assert y.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert memory.report(exact).bytes_kept < 30 * x.numel() * 8


def test_what_is_kept_does_not_grow_with_the_units_of_a_stage():
    def kept(units):
        net = inv.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), *(residual() for _ in range(units)), nn.Conv2d(4, 4, 3, stride=2, padding=1)
        )
        net.memory = "reversible"
        net(torch.randn(4, 2, 16, 16)).sum().backward()
        return memory.report(net).bytes_kept

    few, many = kept(2), kept(20)
    # Statistics of the batch normalisations are copied before every step: a few numbers.
    assert many - few < 18 * 200
    # The image, the input of the strided layer, and its output.
    assert few < 4 * (4 * 16 * 16 * (2 + 4) + 4 * 4 * 8 * 8) + 4000


def test_a_member_that_gives_other_values_is_stored_from_the_start():
    torch.manual_seed(0)
    net = inv.Sequential(nn.Conv2d(2, 4, 3, padding=1), residual(), Counting(), residual())
    other = copy.deepcopy(net)
    other.memory = "reversible"
    x = torch.randn(3, 2, 8, 8)
    with pytest.warns(memory.ReconstructionWarning, match="Counting"):
        found, _, _ = trained(other, x, steps=1)
    net.blocks[2].calls[0] = 0
    expected, _, _ = trained(net, x, steps=1)
    assert_same(found, expected, 1e-3)
    assert [one.mode for one in memory.report(other).quarantined] == ["stored"]


def test_keep_input_runs_again_what_could_be_inverted():
    calls = []

    class Watched(Doubled):
        def inverse(self, y):
            calls.append(len(y))
            return super().inverse(y)

    def run(*, keep_input):
        calls.clear()
        inner = inv.Sequential(Watched(), residual(), keep_input=keep_input)
        net = inv.Sequential(nn.Conv2d(2, 4, 3, padding=1), inner, residual(), memory="reversible")
        net(torch.randn(2, 2, 4, 4)).sum().backward()
        return len(calls)

    assert run(keep_input=True) == 0
    assert run(keep_input=False) > 0


def test_inverse_undoes_forward():
    torch.manual_seed(0)
    net = inv.Sequential(
        Doubled(), inv.ChannelPadding(2, 4), residual(), inv.Squeeze(), inv.Sequential(residual(16), Doubled())
    ).double()
    net.eval()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    assert net.invertible
    y = net(x)
    assert y.shape == (3, 16, 2, 2)
    assert (net.inverse(y) - x).abs().max() < 1e-12


def test_inverse_names_the_member_that_has_none():
    net = inv.Sequential(Doubled(), inv.Sequential(Doubled(), nn.AvgPool2d(2)))
    assert not net.invertible
    with pytest.raises(NotInvertibleError, match=r"member 1, Sequential, has no inverse") as caught:
        net.inverse(torch.randn(2, 2, 2, 2))
    assert caught.value.block == "Sequential"
    with pytest.raises(NotInvertibleError, match=r"member 1, AvgPool2d, has no inverse.*slice"):
        net[1].inverse(torch.randn(2, 2, 2, 2))


def test_indexing_slicing_and_iterating():
    net = inv.Sequential(Doubled(), inv.ChannelPadding(2, 4), residual(), memory="checkpoint")
    assert len(net) == 3
    assert [type(each).__name__ for each in net] == ["Doubled", "ChannelPadding", "ReversibleResidual"]
    assert net[1] is net.blocks[1]
    part = net[1:]
    assert isinstance(part, inv.Sequential)
    assert part.memory == memory.Checkpoint()
    x = torch.randn(2, 2, 4, 4)
    assert torch.equal(part.eval()(net[0](x)), net.eval()(x))


def test_empty_sequence_is_the_identity():
    x = torch.randn(2, 3)
    for strategy in ("store", "reversible"):
        assert torch.equal(inv.Sequential(memory=strategy)(x), x)


def test_members_that_take_a_condition_are_refused():
    with pytest.raises(ConfigError, match=r"without condition, got AffineCoupling.*condition_features=2 at 1"):
        inv.Sequential(nn.Identity(), inv.AffineCoupling(4, condition_features=2))


def test_jacobians_and_vmap_pass_through():
    torch.manual_seed(0)
    net = network().double().eval()
    inv.set_memory(net, "reversible")
    net(torch.randn(4, 2, 8, 8, dtype=torch.float64))
    x = torch.randn(2, 8, 8, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda v: net(v[None])[0].flatten())(x)
    v = torch.randn_like(x)
    step = 1e-6
    difference = (net((x + step * v)[None]) - net((x - step * v)[None])).flatten() / (2 * step)
    found = jacobian.flatten(1) @ v.flatten()
    assert torch.allclose(found, difference, atol=1e-6)


@torch.no_grad()
def test_padded_swap_inverts_where_the_plain_inverse_is_lost():
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 8, 3, padding=1, bias=False)]
    for _ in range(3):
        norm = nn.BatchNorm2d(8)
        # What training leaves of them: x_2 is zero, and so is the variance of all that follows.
        norm.running_var.zero_()
        layers += [norm, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, bias=False)]
    layer = inv.PaddedSwapResidual(inv.SwapResidual(nn.Sequential(*layers)), 3, 16).eval()
    x = torch.randn(4, 3, 6, 6)
    y = layer(x)
    assert y.shape == (4, 16, 6, 6)
    assert torch.equal(layer.inverse(y), x)
    assert layer.residual(y).max() == 0
    noisy = y + 1e-6 * torch.randn_like(y)
    assert (layer.inverse(noisy) - x).abs().max() < 1e-5
    plain, _ = layer.block.inverse(noisy)
    assert (plain[:, :3] - x).abs().max() > 1e-2


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("channels", [3, 6, 7])
@torch.no_grad()
def test_padded_swap_is_injective_and_knows_its_range(factor, channels):
    torch.manual_seed(0)
    f = nn.Conv2d(4, 4 * factor**2, 3, factor, padding=1)
    layer = inv.PaddedSwapResidual(inv.SwapResidual(f, factor=factor), channels, 8).double()
    x = torch.randn(5, channels, 4, 4, dtype=torch.float64)
    y = layer(x)
    assert torch.allclose(layer.inverse(y), x, atol=1e-13)
    assert layer.residual(y).max() < 1e-13
    direction = torch.randn_like(y)
    off = layer.residual(y + direction)
    assert off.min() > 0.1
    back = layer(layer.inverse(y + direction))
    # On the range again, whatever was given.
    assert layer.residual(back).max() < 1e-12


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: inv.ChannelPadding(4, 4), r"expected padded above channels=4, got 4"),
        (lambda: inv.ChannelPadding(0, 4), r"expected channels to be an integer of at least 1, got 0"),
        (lambda: inv.PaddedSwapResidual(inv.SwapResidual(nn.Identity()), 3, 5), r"even number padded.*got 5"),
        (lambda: inv.SwapResidual(nn.Identity(), factor=0), r"expected factor to be an integer of at least 1, got 0"),
        (lambda: inv.Standardise(0), r"expected features to be an integer of at least 1, got 0"),
    ],
)
def test_wrong_arguments_of_blocks_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inv.SwapResidual(nn.Conv2d(2, 3, 1))(torch.randn(2, 4, 4, 4)), r"f to map \(2, 2, 4, 4\) to \(2, 2, 4, 4\), got"),
        (lambda: inv.SwapResidual(nn.Identity(), factor=2)(torch.randn(2, 4, 3, 4)), r"height and width divisible by 2, got"),
        (lambda: inv.SwapResidual(nn.Identity(), factor=2).inverse(torch.randn(2, 6, 2, 2)), r"channels divisible by 4"),
        (lambda: inv.ChannelPadding(3, 8)(torch.randn(2, 4, 4, 4)), r"ChannelPadding: expected x of shape \(batch, 3"),
        (lambda: inv.Standardise(3).fit(torch.randn(2, 4)), r"expected x of shape \(samples, 3, ...\)"),
        (lambda: inv.Standardise(3).fit(torch.randn(0, 3)), r"with samples, got \(0, 3\)"),
    ],
)  # fmt: skip
def test_wrong_shapes_are_refused(call, message):
    with pytest.raises(inv.ShapeError, match=message):
        call()


def test_standardise_takes_mean_and_deviation_of_the_data():
    x = (
        torch.randn(500, 3, 4, 4) * torch.tensor([1.0, 2.0, 0.0])[:, None, None]
        + torch.tensor([0.0, 5.0, 7.0])[:, None, None]
    )
    block = inv.Standardise(3)
    block.fit(x)
    y, _ = block(x)
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(y.std((0, 2, 3), correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)
    with pytest.raises(inv.DomainError, match="finite data"):
        block.fit(torch.full((2, 3), torch.nan))
    with pytest.raises(ConfigError, match="positive deviations"):
        block.set(torch.zeros(3), torch.tensor([1.0, 0.0, 1.0]))
