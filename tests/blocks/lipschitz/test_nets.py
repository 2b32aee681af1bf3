"""Contractive networks: the contract that residual blocks rely on."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

from invertible.blocks.lipschitz import (
    LipschitzConv2d,
    LipschitzConvNet,
    LipschitzDenseConvNet,
    LipschitzDenseNet,
    LipschitzLinear,
    LipschitzMLP,
    contractive,
    lipschitz_convnet,
    lipschitz_dense_convnet,
    lipschitz_densenet,
    lipschitz_mlp,
)
from invertible.blocks.lipschitz.choices import NAMES
from invertible.errors import ConfigError, ShapeError
from invertible.norms import lipschitz_bound

NORMS = (1, 2, math.inf)
NETS = {
    "mlp": (lambda **k: LipschitzMLP(4, (16, 8), **k), (4,)),
    "linear": (lambda **k: LipschitzMLP(4, (), **k), (4,)),
    "convnet": (lambda **k: LipschitzConvNet(2, (6, 8), **k), (2, 4, 5)),
    "dense": (lambda **k: LipschitzDenseNet(4, (6, 8), **k), (4,)),
    "dense convnet": (lambda **k: LipschitzDenseConvNet(2, (4, 6), **k), (2, 4, 5)),
}


def random(net):
    """Parameters so large that every layer is scaled."""
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


def jacobians(net, x, condition=None):
    rows = torch.func.vmap(torch.func.jacrev(lambda v: net(v[None], condition)[0]))(x)
    return rows.detach().reshape(len(x), x[0].numel(), -1).double()


def test_names_are_complete():
    assert len(NAMES) == 8


@pytest.mark.parametrize("activation", NAMES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETS)
def test_the_constant_holds(name, norm, activation):
    make, shape = NETS[name]
    preactivation = (list(NAMES).index(activation) + list(NETS).index(name)) % 2 == 1
    net = random(make(norm=norm, activation=activation, preactivation=preactivation, lipschitz=0.9))
    x = torch.randn(8, *shape)
    assert net(x).shape == x.shape
    assert float(torch.linalg.matrix_norm(jacobians(net, x), norm).max()) <= 0.9 * (1 + 1e-6)
    assert 0.7 * 0.9 <= net.lipschitz_bound(norm) <= 0.9 * (1 + 1e-12)
    assert net.lipschitz_bound(norm, shape[1:]) <= 0.9 * (1 + 1e-12)
    assert net.lipschitz_bound(2) == lipschitz_bound(net)
    assert float(torch.linalg.matrix_norm(jacobians(net, x), 2).max()) <= net.lipschitz_bound()


@pytest.mark.parametrize("name", NETS)
def test_the_bound_is_reached_by_a_linear_map(name):
    make, shape = NETS[name]
    net = random(make(activation=nn.Identity, lipschitz=0.9))
    reached = float(torch.linalg.matrix_norm(jacobians(net, torch.randn(1, *shape)), 2).max())
    assert 0.05 < reached <= net.lipschitz_bound(2, shape[1:])
    if name == "linear":
        assert reached == pytest.approx(0.9, rel=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_copies_loads_and_modes_agree_to_the_bit(name):
    make, shape = NETS[name]
    net, x = random(make()), torch.randn(3, *shape)
    y = net(x)
    other = make()
    other(x)
    other.load_state_dict(net.state_dict())
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for each in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), other, loaded, net.eval(), net.train()):
        assert torch.equal(each(x), y)
        with torch.no_grad():
            assert torch.equal(each(x), y)
    assert not list(net.buffers())


@pytest.mark.parametrize("width", [8, 64, 150])
@torch.no_grad()
def test_a_copy_in_double_precision_is_the_same_map(width):
    net, x = LipschitzMLP(3, (width, width)).float(), torch.randn(16, 3, dtype=torch.float32)
    y, again = net(x), copy.deepcopy(net).double()(x.double())
    assert float((y - again).abs().max() / again.abs().max()) < 2e-6


@pytest.mark.parametrize("name", NETS)
def test_starts_where_all_layers_learn(name):
    make, shape = NETS[name]
    net, x = make(), torch.randn(16, *shape)
    y = net(x)
    assert 1e-2 < float((y - net(torch.zeros_like(x))).detach().norm() / x.norm()) < net.lipschitz
    y.square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for n, p in net.named_parameters() if n.endswith("weight"))


@pytest.mark.parametrize("preactivation", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_a_condition_moves_the_output_and_not_the_constant(name, preactivation):
    make, shape = NETS[name]
    net = random(make(condition_features=3, preactivation=preactivation))
    x, condition = torch.randn(4, *shape), 10 * torch.randn(4, 3)
    assert not torch.allclose(net(x, condition), net(x, -condition))
    largest = max(float(torch.linalg.matrix_norm(jacobians(net, x[[i]], condition[[i]]), 2).max()) for i in range(4))
    assert largest <= 0.97
    assert math.isinf(float(net.magnitude_bound(torch.ones(shape[0], dtype=torch.float64)).max()))
    if len(shape) > 1:
        same = condition[..., None, None].expand(-1, -1, *shape[1:])
        torch.testing.assert_close(net(x, same), net(x, condition))
    for wrong in (None, condition[:, :2]):
        with pytest.raises(ShapeError, match=type(net).__name__):
            net(x, wrong)
    with pytest.raises(ShapeError, match="takes no condition"):
        make()(x, condition)


@pytest.mark.parametrize("name", NETS)
def test_precisions_and_empty_batches(name):
    make, shape = NETS[name]
    net, x = random(make()), torch.randn(3, *shape)
    assert net(x[:0]).shape == (0, *shape)
    with torch.autocast("cpu", torch.bfloat16):
        loose = net(x)
    assert loose.dtype == torch.bfloat16
    torch.testing.assert_close(loose.float(), net(x), rtol=0.1, atol=0.1)
    double = copy.deepcopy(net).double()(x.double())
    torch.testing.assert_close(net(x).double(), double, rtol=1e-4, atol=1e-4)
    half = net.bfloat16()
    assert half(x.bfloat16()).dtype == torch.bfloat16
    assert half.lipschitz_bound() <= 0.97 * (1 + 1e-12)


@pytest.mark.parametrize("name", NETS)
def test_derivatives(name):
    make, shape = NETS[name]
    net = random(make()).double()
    x = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, x, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(net, x, fast_mode=True)


@pytest.mark.parametrize("name", NETS)
def test_magnitudes(name):
    make, shape = NETS[name]
    net, ceiling = random(make()), torch.linspace(0.1, 3, shape[0], dtype=torch.float64)
    x = (torch.rand(500, *shape) * 2 - 1) * ceiling.float().view(-1, *(1,) * (len(shape) - 1))
    reached = net(x).detach().double().abs().transpose(0, 1).flatten(1).amax(1)
    bound = net.magnitude_bound(ceiling)
    assert bool(bound.isfinite().all())
    assert bool((reached <= bound * (1 + 1e-5)).all())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LipschitzMLP(0), "LipschitzMLP: expected features"),
        (lambda: LipschitzMLP(2, (0,)), r"LipschitzMLP: expected hidden\[0\]"),
        (lambda: LipschitzMLP(2, lipschitz=-1.0), "LipschitzMLP: expected lipschitz"),
        (lambda: LipschitzMLP(2, norm=3), "LipschitzMLP: expected norm"),
        (lambda: LipschitzMLP(2, activation="gelu"), "LipschitzMLP: expected activation"),
        (lambda: LipschitzMLP(2, activation=nn.PReLU), "LipschitzMLP: expected an activation with a fixed"),
        (lambda: LipschitzMLP(2, condition_features=-1), "LipschitzMLP: expected condition_features"),
        (lambda: LipschitzConvNet(2, (4,)), "LipschitzConvNet: expected one kernel more"),
        (lambda: LipschitzConvNet(2, kernel_sizes=(3, 2, 3)), "LipschitzConvNet: expected odd kernel"),
        (lambda: LipschitzDenseNet(2, (5,)), "LipschitzDenseNet: expected growth to be even"),
        (lambda: LipschitzDenseConvNet(2, kernel_size=4), "LipschitzDenseConvNet: expected odd kernel"),
    ],
)
def test_arguments_are_checked(make, match):
    with pytest.raises(ConfigError, match=match):
        make()


def test_factories():
    assert isinstance(lipschitz_mlp((8,), norm=math.inf)(3), LipschitzMLP)
    assert lipschitz_mlp((8,), norm=math.inf)(3).norm == math.inf
    assert lipschitz_convnet((8, 8), lipschitz=0.5)(3)(torch.randn(1, 3, 4, 4)).shape == (1, 3, 4, 4)
    assert lipschitz_densenet((8,))(3)(torch.randn(1, 3)).shape == (1, 3)
    assert lipschitz_dense_convnet((8,))(3)(torch.randn(1, 3, 4, 4)).shape == (1, 3, 4, 4)


class Tripled(nn.Module):
    """A layer of one's own that says its constant."""

    def forward(self, x):
        return 3 * x

    def lipschitz_bound(self):
        return 3.0


ORDINARY = {
    "vectors": (lambda: nn.Sequential(nn.Linear(4, 9), nn.SiLU(), nn.Sequential(nn.Linear(9, 4))), (4,)),
    "images": (
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.GELU(), nn.Conv2d(5, 2, 1, bias=False), nn.Hardswish()),
        (2, 4, 4),
    ),
    "strided": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 2, stride=2), nn.ReLU(inplace=True), nn.PixelShuffle(2), nn.Tanh()),
        (2, 4, 4),
    ),
    "flattened": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(18, 18), nn.ELU(), nn.Unflatten(1, (2, 3, 3))),
        (2, 3, 3),
    ),
    "a contractive part": (lambda: nn.Sequential(nn.Linear(4, 4), LipschitzMLP(4, (8,), lipschitz=2.0)), (4,)),
    "signals": (lambda: nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), nn.LeakyReLU(0.1)), (2, 6)),
    "volumes": (lambda: nn.Sequential(nn.Conv3d(1, 1, 3, padding=1), nn.Softplus()), (1, 3, 3, 3)),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_network_becomes_contractive(name, norm):
    make, shape = ORDINARY[name]
    if name == "a contractive part" and norm != 2:
        pytest.skip("its constant is known in the 2-norm")
    net = random(make())
    x = torch.randn(5, *shape)
    kept = x.clone()
    made = contractive(net, 0.8, norm)
    assert made(x).shape == x.shape
    assert torch.equal(x, kept)
    assert (made.lipschitz, made.norm, made.condition_features) == (0.8, norm, 0)
    assert {id(p) for p in made.parameters()} == {id(p) for p in net.parameters()}
    assert made.lipschitz_bound(norm) <= 0.8 * (1 + 1e-12)
    assert float(torch.linalg.matrix_norm(jacobians(made, x), norm).max()) <= 0.8 * (1 + 1e-6)
    assert torch.equal(pickle.loads(pickle.dumps(made)).eval()(x), made(x))
    made(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_small_layers_stay_as_they_are():
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    net[0].weight.data = 0.1 * torch.eye(3)
    x = torch.randn(4, 3)
    assert torch.equal(contractive(net)(x), net(x))


def test_the_layers_share_what_activations_leave():
    made = contractive(nn.Sequential(nn.Linear(3, 3), nn.Hardswish(), nn.Linear(3, 3), Tripled()), 0.9)
    targets = [layer.lipschitz for layer in made.layers if isinstance(layer, LipschitzLinear)]
    assert targets == pytest.approx([(0.9 / 4.5) ** 0.5] * 2)


def test_a_contractive_network_comes_back():
    net = LipschitzMLP(3, lipschitz=0.5)
    assert contractive(net, 0.9) is net
    made = contractive(nn.Sequential(nn.Linear(3, 3)), 0.5)
    assert contractive(made, 0.9) is made
    with pytest.raises(ConfigError, match="expected a network of a constant of at most"):
        contractive(net, 0.4)
    with pytest.raises(ConfigError, match="in norm 1"):
        contractive(net, 0.9, norm=1)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.BatchNorm1d(3), "BatchNorm1d at 1: .*ActNorm"),
        (nn.BatchNorm1d(3).eval(), "BatchNorm1d at 1: .*ActNorm"),
        (nn.Dropout(), "Dropout at 1: .*random in training"),
        (nn.LayerNorm(3), "LayerNorm at 1: .*eps"),
        (nn.PReLU(), "PReLU at 1: .*LeakyReLU"),
        (nn.RReLU().eval(), "RReLU at 1: "),
        (nn.Bilinear(3, 3, 3), "Bilinear at 1: .*method lipschitz_bound"),
        (nn.Sequential(nn.ReLU(), nn.GroupNorm(1, 3)), r"GroupNorm at 1\.1"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), "at 1.*"),
    ],
)
def test_layers_without_a_constant_are_refused(layer, match):
    with pytest.raises(ConfigError, match=match):
        contractive(nn.Sequential(nn.Linear(3, 3), layer))


def test_hooks_are_refused():
    hooked = nn.utils.spectral_norm(nn.Linear(3, 3))
    with pytest.raises(ConfigError, match="without parametrisations and hooks"):
        contractive(nn.Sequential(hooked))


def test_a_network_without_weights_or_with_another_shape_is_refused():
    with pytest.raises(ConfigError, match="expected layers to scale"):
        contractive(nn.Sequential(nn.SiLU()))
    assert contractive(nn.Sequential(nn.Sigmoid()), 0.5).lipschitz == 0.5
    with pytest.raises(ShapeError, match="give x its shape back"):
        contractive(nn.Sequential(nn.Linear(3, 4)))(torch.randn(2, 3))
    with pytest.raises(ShapeError, match="takes no condition"):
        contractive(nn.Sequential(nn.Linear(3, 3)))(torch.randn(2, 3), torch.randn(2, 1))


def test_training_keeps_the_certificate():
    torch.manual_seed(0)
    net = LipschitzConvNet(1, (8, 8))
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    x = torch.randn(16, 1, 4, 4)
    for _ in range(15):
        optimizer.zero_grad()
        # The farther the outputs lie apart, the better: every layer runs into its target.
        (-net(x).square().sum() / x.square().sum()).backward()
        optimizer.step()
        assert float(torch.linalg.matrix_norm(jacobians(net, x[:2]), 2).max()) <= 0.97
    layers = [layer for layer in net.layers if isinstance(layer, LipschitzConv2d)]
    assert all(layer.weight_in_use((4, 4)) is not layer.weight for layer in layers)
