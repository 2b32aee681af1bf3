"""The layer of the i-RIM: what it computes, how often it evaluates its network, what it keeps, what it refuses."""

import copy
import pickle

import pytest
import torch
from torch import nn

import invertible as inv
from invertible import AdditiveCoupling, Chain, ConfigError, InvertibleConv1x1, ShapeError, memory
from invertible.blocks.gated_convnet import gated_convnet
from invertible.blocks.orthogonal_coupling import OrthogonalCoupling

pytestmark = pytest.mark.usefixtures("float64")

SHAPES = {1: (7,), 2: (5, 6), 3: (2, 5, 3)}


class Counted(nn.Module):
    """A network that counts its evaluations."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.net, self.calls = nn.Conv2d(channels, out, 3, padding=1), []

    def forward(self, x):
        self.calls.append(len(x))
        return torch.sin(self.net(x))


def gradients(chain, x, strategy):
    """d/dx and d/dparameters of a nonlinear function of the output."""
    inv.set_memory(chain, strategy)
    x = x.clone().requires_grad_()
    chain(x)[0].sin().square().sum().backward()
    found = [x.grad, *(p.grad.clone() for p in chain.parameters())]
    chain.zero_grad()
    return torch.cat([one.flatten() for one in found])


def test_is_the_coupling_between_an_orthogonal_convolution_and_its_inverse() -> None:
    convolution = InvertibleConv1x1(8, "orthogonal", reflections=3)
    coupling = AdditiveCoupling(8, gated_convnet(5, 2), spatial_dims=2)
    layer = OrthogonalCoupling(8, lambda *_: coupling.net)
    layer.weight.load_state_dict(convolution.weight.state_dict())
    x = torch.randn(3, 8, 6, 6)
    expected, log_det = Chain(convolution, coupling, convolution.inverted)(x)
    assert torch.allclose(layer(x)[0], expected, atol=1e-13)
    assert torch.equal(layer(x)[1], log_det)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(("channels", "coupled"), [(6, None), (7, None), (7, 4), (5, 2)])
def test_what_it_computes_in_full(axes: int, channels: int, coupled: int | None) -> None:
    layer = OrthogonalCoupling(channels, gated_convnet(4, 2, axes), reflections=2, coupled=coupled)
    x = torch.randn(2, channels, *SHAPES[axes])
    turned = torch.einsum("ij,bj...->bi...", layer.weight()[0], x)
    passive, active, rest = turned.split((*layer.sizes, channels - sum(layer.sizes)), 1)
    assert sum(layer.sizes) == (coupled or channels)
    turned = torch.cat((passive, active + layer.net(passive), rest), 1)
    expected = torch.einsum("ji,bj...->bi...", layer.weight()[0], turned)
    y, _ = layer(x)
    assert torch.allclose(y, expected, atol=1e-13)
    assert not torch.allclose(y, x, atol=1e-3)
    assert torch.allclose(layer.inverse(y)[0], x, atol=1e-13)


def test_is_the_identity_to_the_bit_where_the_network_is_zero() -> None:
    layer = OrthogonalCoupling(6, gated_convnet(4))
    nn.init.zeros_(layer.net.up.gain)
    x = torch.randn(2, 6, 4, 4)
    assert torch.equal(layer(x)[0], x)
    assert torch.equal(layer.inverse(x)[0], x)


@pytest.mark.parametrize("inverse", [False, True])
def test_one_evaluation_in_the_backward_pass_that_saves_memory(inverse: bool) -> None:
    layers = [OrthogonalCoupling(4, Counted) for _ in range(3)]
    chain = Chain(*layers, memory=memory.Reversible(guard=False))
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    y, _ = chain.inverse(x) if inverse else chain(x)
    assert [len(layer.net.calls) for layer in layers] == [1, 1, 1]
    y.square().sum().backward()
    assert [len(layer.net.calls) for layer in layers] == [2, 2, 2]


@pytest.mark.parametrize("strategy", ["reversible", "checkpoint", "recursive", "1MiB"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_gradients_are_those_of_stored_training(strategy: str, axes: int) -> None:
    chain = Chain(*[OrthogonalCoupling(5, gated_convnet(4, 2, axes)) for _ in range(4)])
    x = torch.randn(2, 5, *SHAPES[axes])
    stored = gradients(chain, x, "store")
    for chain_or_inverse in (chain, Chain(chain.inverted)):
        stored = gradients(chain_or_inverse, x, "store")
        assert (gradients(chain_or_inverse, x, strategy) - stored).norm() <= 1e-12 * stored.norm()
        assert memory.report(chain_or_inverse).alarms == 0


def test_gradients_of_channels_last_images() -> None:
    chain = Chain(*[OrthogonalCoupling(6, gated_convnet(4, 2)) for _ in range(3)])
    x = torch.randn(2, 6, 4, 6)
    stored = gradients(chain, x, "store")
    found = gradients(chain, x.contiguous(memory_format=torch.channels_last), "reversible")
    assert (found - stored).norm() <= 1e-12 * stored.norm()


def test_what_is_kept_does_not_grow_with_depth() -> None:
    kept = []
    for layers in (3, 30):
        chain = Chain(*[OrthogonalCoupling(4, gated_convnet(4)) for _ in range(layers)], memory="reversible")
        chain(torch.randn(2, 4, 8, 8, requires_grad=True))
        kept.append(memory.report(chain).bytes_kept)
    assert kept[0] == kept[1]


def test_deep_chains_keep_their_inverse_in_float32() -> None:
    chain = Chain(*[OrthogonalCoupling(8, gated_convnet(8, 2)) for _ in range(100)]).float()
    x = torch.randn(2, 8, 8, 8, dtype=torch.float32)
    with torch.no_grad():
        assert (chain.inverse(chain(x)[0])[0] - x).abs().max() < 3e-5


class InFloat32(nn.Module):
    """A network that autocast does not touch."""

    def forward(self, x):
        return x.float().sin()


def test_autocast_does_not_round_the_basis() -> None:
    chain = Chain(*[OrthogonalCoupling(8, lambda *_: InFloat32()) for _ in range(4)]).float()
    x = torch.randn(2, 8, 4, 4, dtype=torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert (chain.inverse(chain(x)[0])[0] - x).abs().max() < 1e-5


def test_copies_and_pickles_after_it_has_run_with_grad() -> None:
    layer = OrthogonalCoupling(4, gated_convnet(3, 2))
    x = torch.randn(1, 4, 4, 4)
    y, _ = layer(x)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(again(x)[0], y)


@pytest.mark.parametrize(("channels", "hidden", "factor"), [(64, 64, 1), (64, 1024, 8), (96, 128, 2), (6, 5, 3)])
def test_number_of_parameters(channels: int, hidden: int, factor: int) -> None:
    with torch.device("meta"):
        layer = OrthogonalCoupling(channels, gated_convnet(hidden, factor))
    down = channels // 2 * hidden * factor**2 + 2 * hidden
    up = hidden * channels * factor**2 + hidden
    assert sum(p.numel() for p in layer.parameters()) == down + 9 * hidden**2 + 2 * hidden + up + 3 * channels


def test_has_no_exact_form_and_says_so() -> None:
    chain = Chain(OrthogonalCoupling(4, gated_convnet(3)), memory="exact")
    with pytest.raises(ConfigError, match="OrthogonalCoupling has no exact form"):
        chain(torch.randn(1, 4, 3, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 1}, "at least 2 coupled channels"),
        ({"channels": 4, "coupled": 5}, "at most channels=4"),
        ({"channels": 4, "reflections": 0}, "reflections"),
        ({"channels": 4, "net": lambda *_: 3}, "Module"),
    ],
)
def test_refuses_at_construction(options: dict, message: str, unchecked_types) -> None:
    with unchecked_types(), pytest.raises(ConfigError, match=message):
        OrthogonalCoupling(**{"net": gated_convnet(3), **options})


def test_refuses_a_network_that_changes_the_size_and_inputs_that_do_not_fit() -> None:
    layer = OrthogonalCoupling(4, lambda a, b: nn.Conv2d(a, b, 3))
    with pytest.raises(ShapeError, match="padding that keeps the size"):
        layer(torch.randn(1, 4, 5, 5))
    with pytest.raises(ShapeError, match="got \\(1, 3, 5, 5\\)"):
        layer(torch.randn(1, 3, 5, 5))
