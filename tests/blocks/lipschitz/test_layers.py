"""Linear layers and convolutions: the certificate holds, the gradient is right, nothing stale is used."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch import nn

from invertible.blocks.lipschitz import LipschitzConv1d, LipschitzConv2d, LipschitzConv3d, LipschitzLinear
from invertible.blocks.lipschitz.cache import WeightCache
from invertible.blocks.lipschitz.certificate import matrix_certificate
from invertible.blocks.lipschitz.transfer import convolution_certificate
from invertible.errors import ConfigError, DomainError
from invertible.norms import lipschitz_bound

from .dense import dense_matrix, norm_of

NORMS = (1, 2, math.inf)
TARGET = 0.5
# The estimate is raised by 1e-3; single precision may add 2e-3.
LOOSEST = 1.0035


def rank_one(m, n):
    return torch.outer(torch.randn(m), torch.randn(n))


def nearly_degenerate(m, n):
    u, _ = torch.linalg.qr(torch.randn(m, min(m, n)))
    v, _ = torch.linalg.qr(torch.randn(n, min(m, n)))
    return u @ torch.diag(1 - 1e-7 * torch.arange(min(m, n))) @ v.T


def hidden_direction(m, n):
    """The largest singular vector is orthogonal to the vector that every estimate starts from."""
    from invertible.blocks.lipschitz.eigenvalue import _start

    size = min(m, n)
    start = _start(size, torch.zeros(1))
    near = torch.randn(size)
    near = near - (near @ start) * start
    weight = 5 * torch.outer(near / near.norm(), nn.functional.normalize(torch.randn(max(m, n)), dim=0))
    weight = weight + 0.01 * torch.outer(start, torch.randn(max(m, n)))
    return weight if m <= n else weight.T


WEIGHTS = {
    "random": torch.randn,
    "huge": lambda m, n: 1e30 * torch.randn(m, n),
    "tiny": lambda m, n: 1e-30 * torch.randn(m, n),
    "rank one": rank_one,
    "nearly degenerate": nearly_degenerate,
    "hidden direction": hidden_direction,
    "orthogonal": lambda m, n: nn.init.orthogonal_(torch.empty(m, n)),
    "zero": torch.zeros,
    "one entry": lambda m, n: torch.zeros(m, n).index_put((torch.tensor(m - 1), torch.tensor(0)), torch.tensor(3.0)),
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (60, 130), (150, 140)], ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_certificate_of_linear_layers(kind, shape, norm):
    if shape == (1, 1) and kind == "hidden direction":
        pytest.skip("a line has no other direction")
    layer = LipschitzLinear(shape[1], shape[0], lipschitz=TARGET, norm=norm)
    weight = WEIGHTS[kind](*shape)
    layer.weight.data = weight
    true, used = norm_of(weight, norm), norm_of(dense_matrix(layer), norm)
    assert used <= TARGET * (1 + 1e-14)
    # What is within the target stays as it is; what is not is not made smaller than necessary.
    if true < TARGET * 0.99:
        assert torch.equal(layer.weight_in_use().detach(), weight)
    else:
        assert used >= TARGET / 1.0011
    assert used * (1 - 1e-12) <= layer.lipschitz_bound(norm) <= TARGET * (1 + 1e-12)


CONVOLUTIONS = [
    (k, s, d, g, p, mode)
    for k, s, d, g, p, mode in itertools.product(
        (1, 2, 3, 5), (1, 2, 3), (1, 2), (1, 2), (0, 1, 2), ("zeros", "circular", "reflect", "replicate")
    )
    if (mode == "zeros" or p) and d * (k - 1) + 1 <= 6 + 2 * p
]


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", [LipschitzConv1d, LipschitzConv2d], ids=["1d", "2d"])
def test_certificate_of_convolutions(kind, norm, mode):
    size = (7,) if kind is LipschitzConv1d else (6, 8)
    # Every fifth where there are many; five shares no factor with the number of values of any argument.
    for k, s, d, g, p, _ in [each for each in CONVOLUTIONS if each[-1] == mode][:: 5 if len(size) > 1 else 1]:
        layer = kind(4, 6, k, stride=s, dilation=d, groups=g, padding=p, padding_mode=mode, lipschitz=TARGET, norm=norm)
        nn.init.normal_(layer.weight)
        used = norm_of(dense_matrix(layer, size), norm)
        assert used <= TARGET * (1 + 1e-13), (k, s, d, g, p)
        assert used * (1 - 1e-12) <= layer.lipschitz_bound(norm, size) <= TARGET * (1 + 1e-12), (k, s, d, g, p)
        assert used * (1 - 1e-12) <= layer.lipschitz_bound(norm), (k, s, d, g, p)


@pytest.mark.parametrize("padding", [0, 1, "same"])
def test_certificate_of_three_spatial_axes(padding):
    layer = LipschitzConv3d(2, 3, 3, padding=padding, lipschitz=TARGET)
    nn.init.normal_(layer.weight)
    assert 0.5 * TARGET < norm_of(dense_matrix(layer, (4, 3, 5)), 2) <= TARGET


@pytest.mark.parametrize("size", [3, 8, 30])
def test_a_kernel_of_one_sign_on_a_small_image(size):
    """[1, 2, 1] with zeros beyond the ends has the norm 2 + 2 cos(pi/(n + 1)), not 4."""
    layer = LipschitzConv1d(1, 1, 3, padding=1, bias=False, lipschitz=TARGET)
    layer.weight.data = torch.tensor([[[1.0, 2.0, 1.0]]])
    assert norm_of(dense_matrix(layer, (size,)), 2) == pytest.approx(TARGET, rel=5e-6)


def test_certificate_of_many_channels_and_groups():
    layer = LipschitzConv2d(24, 24, 3, padding=1, groups=24, lipschitz=TARGET)
    nn.init.normal_(layer.weight)
    assert 0.8 * TARGET < norm_of(dense_matrix(layer, (5, 5)), 2) <= TARGET


@pytest.mark.parametrize("size", [(3, 3), (4, 6), (9, 9)], ids=str)
def test_circular_padding_is_exact(size):
    layer = LipschitzConv2d(3, 4, 3, padding=1, padding_mode="circular", lipschitz=TARGET)
    nn.init.normal_(layer.weight)
    assert TARGET / LOOSEST <= norm_of(dense_matrix(layer, size), 2) <= TARGET


def test_a_convolution_depends_on_the_size_of_the_image():
    layer = LipschitzConv2d(2, 2, 5, padding=2, lipschitz=TARGET)
    nn.init.uniform_(layer.weight, 0.5, 1.0)
    small, large = layer.weight_in_use((3, 3)), layer.weight_in_use((30, 30))
    assert float(small.detach().norm()) > 1.1 * float(large.detach().norm())
    assert norm_of(dense_matrix(layer, (3, 3)), 2) <= TARGET


def test_large_images_take_a_coarser_grid():
    layer = LipschitzConv1d(2, 2, 3, padding=1, lipschitz=TARGET)
    nn.init.normal_(layer.weight)
    assert torch.equal(layer.weight_in_use((300,)), layer.weight_in_use((301,)))
    assert 0.99 * TARGET < norm_of(dense_matrix(layer, (300,)), 2) <= TARGET


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", NORMS)
def test_the_numbers_in_use_keep_the_target(dtype, norm):
    layer = LipschitzLinear(20, 30, lipschitz=TARGET, norm=norm).to(dtype)
    nn.init.normal_(layer.weight)
    convolution = LipschitzConv2d(3, 5, 3, padding=1, lipschitz=TARGET, norm=norm).to(dtype)
    nn.init.normal_(convolution.weight)
    assert layer.weight_in_use().dtype == dtype
    assert norm_of(dense_matrix(layer), norm) <= TARGET * (1 + 1e-13)
    assert norm_of(dense_matrix(convolution, (6, 6)), norm) <= TARGET * (1 + 1e-13)


def test_under_autocast_the_rounded_weight_keeps_the_target():
    layer = LipschitzLinear(20, 30, bias=False, lipschitz=TARGET)
    nn.init.normal_(layer.weight)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        used = layer.weight_in_use()
        assert used.dtype == torch.float32
        y = layer(torch.eye(20))
    assert norm_of(used.bfloat16(), 2) <= TARGET
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_refused(norm, value):
    for layer, x in (
        (LipschitzLinear(3, 4, norm=norm), torch.randn(2, 3)),
        (LipschitzConv2d(3, 4, 3, norm=norm), torch.randn(2, 3, 5, 5)),
    ):
        layer(x)
        layer.weight.data.flatten()[3] = value
        with pytest.raises(DomainError, match="expected a finite weight"):
            layer(x)


def test_a_weight_too_large_to_divide_by_is_refused():
    layer = LipschitzLinear(100, 100)
    layer.weight.data.fill_(3e38)
    with pytest.raises(DomainError, match="norm that torch.float32 can divide by"):
        layer(torch.randn(1, 100))


@pytest.mark.parametrize("arguments", [{"lipschitz": 0.0}, {"lipschitz": math.inf}, {"norm": 3}], ids=str)
def test_targets_are_checked(arguments):
    with pytest.raises(ConfigError, match="LipschitzLinear: expected"):
        LipschitzLinear(3, 4, **arguments)


def layers(norm=2):
    linear = LipschitzLinear(6, 5, lipschitz=TARGET, norm=norm)
    convolution = LipschitzConv2d(3, 4, 3, stride=2, padding=1, dilation=2, lipschitz=TARGET, norm=norm)
    large = LipschitzLinear(150, 140, lipschitz=TARGET, norm=norm)
    for layer in (linear, convolution, large):
        nn.init.normal_(layer.weight)
    return [(linear, torch.randn(4, 6)), (convolution, torch.randn(2, 3, 7, 6)), (large, torch.randn(3, 150))]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("place", [0, 1, 2], ids=["linear", "convolution", "large"])
def test_values_are_a_function_of_the_weight(place, norm):
    layer, x = layers(norm)[place]
    y = layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), y)
    with torch.inference_mode():
        assert torch.equal(layer(x), y)
    assert torch.equal(layer.eval()(x), y)
    assert torch.equal(torch.func.vmap(layer)(x[:, None])[:, 0], y) or place
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert copied._cache._values == {}
        assert torch.equal(copied(x), y)
    fresh = copy.deepcopy(layer)
    nn.init.normal_(fresh.weight)
    fresh(x)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), y)
    assert set(layer.state_dict()) == {"weight", "bias"}


def by_optimizer(layer, x, **options):
    optimizer = torch.optim.Adam(layer.parameters(), 0.1, **options)
    layer(x).square().sum().backward()
    optimizer.step()


def by_swapping(layer, x):
    # Data of a new tensor, and then of another one, that may lie where the first one lay.
    layer.weight.data = torch.randn_like(layer.weight)
    layer.weight.data = torch.randn_like(layer.weight)


EDITS = {
    "optimizer": by_optimizer,
    "fused optimizer": lambda layer, x: by_optimizer(layer, x, fused=True),
    "in place": lambda layer, x: nn.init.normal_(layer.weight),
    "data in place": lambda layer, x: layer.weight.data.mul_(-1.5),
    "one number": lambda layer, x: layer.weight.data.flatten()[1:2].mul_(1 + 1e-6),
    "data": by_swapping,
    "load": lambda layer, x: layer.load_state_dict({k: 2 * v for k, v in layer.state_dict().items()}),
    "assigned": lambda layer, x: layer.load_state_dict(
        {k: nn.Parameter(2 * v) for k, v in layer.state_dict().items()}, assign=True
    ),
    "double": lambda layer, x: layer.double(),
    "target": lambda layer, x: layer.set_target(0.25, 2),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("place", [0, 1], ids=["linear", "convolution"])
def test_nothing_stale_is_used(edit, place):
    layer, x = layers()[place]
    size = tuple(x.shape[2:])
    with torch.no_grad():
        layer.weight_in_use(size)
    EDITS[edit](layer, x)
    with torch.no_grad():
        used = layer.weight_in_use(size)
        assert torch.equal(used, copy.deepcopy(layer).weight_in_use(size))
    assert norm_of(dense_matrix(layer, size), 2) <= layer.lipschitz * (1 + 1e-13)


def test_an_unchanged_weight_is_certified_once(monkeypatch):
    layer, x = layers()[1]
    calls = []
    certificate = layer.certificate
    monkeypatch.setattr(layer, "certificate", lambda *each: calls.append(1) or certificate(*each))
    for _ in range(3):
        layer(x).sum().backward()
        with torch.no_grad():
            layer(x)
    torch.func.vmap(torch.func.jacrev(layer))(x)
    assert len(calls) == 1
    layer(torch.randn(1, 3, 9, 9))
    assert len(calls) == 2
    layer(x)
    assert len(calls) == 2


def test_a_transformation_fills_the_cache_with_its_own_values_only():
    layer, x = layers()[0]
    inside = torch.func.vmap(torch.func.jacrev(layer))(x)
    assert not any(torch._C._functorch.is_functorch_wrapped_tensor(v.product) for v in layer._cache._values.values())
    assert torch.equal(inside, torch.func.vmap(torch.func.jacrev(copy.deepcopy(layer)))(x))
    torch.testing.assert_close(inside[0], layer.weight_in_use())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("place", [0, 1, 2], ids=["linear", "convolution", "large"])
def test_gradient_against_finite_differences(place, norm):
    layer, x = layers(norm)[place]
    layer, x = layer.double(), x.double()
    direction = torch.randn_like(layer.weight)
    y = torch.randn_like(layer(x))
    (gradient,) = torch.autograd.grad((layer(x) * y).sum(), layer.weight)

    def moved(step):
        other = copy.deepcopy(layer)
        other.weight.data.add_(direction, alpha=step)
        with torch.no_grad():
            return float((other(x) * y).sum())

    expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
    found = float((gradient * direction).sum())
    # Only the estimate is differentiated; what it misses of the norm, at most 1e-3 of it, is not.
    slack = 1e-6 if place == 0 or norm != 2 else 5e-3
    assert abs(found - expected) <= slack * float((gradient.abs() * direction.abs()).sum())


@pytest.mark.parametrize("place", [0, 1], ids=["linear", "convolution"])
def test_derivatives_of_every_mode_agree(place):
    layer, x = layers()[place]
    layer, x = layer.double(), x.double()
    weight, tangent = layer.weight.detach().clone(), torch.randn_like(layer.weight)

    def of_weight(w):
        return torch.func.functional_call(layer, {"weight": w, "bias": layer.bias.detach()}, (x,))

    value, forward = torch.func.jvp(of_weight, (weight,), (tangent,))
    assert torch.equal(value, layer(x).detach())
    reverse = torch.func.vjp(of_weight, weight)[1](torch.ones_like(value))[0]
    plain = torch.autograd.grad(layer(x).sum(), layer.weight)[0]
    torch.testing.assert_close(reverse, plain)
    torch.testing.assert_close((plain * tangent).sum(), forward.sum())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        along = torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent
    torch.testing.assert_close(along, torch.func.jvp(layer, (x,), (torch.ones_like(x),))[1])
    assert torch.autograd.gradgradcheck(layer, x.requires_grad_(), fast_mode=True)
    # Second derivatives by x and then by the weight, as a log-determinant's gradient takes them.
    (inner,) = torch.autograd.grad(layer(x).pow(2).sum(), x, create_graph=True)
    (outer,) = torch.autograd.grad(inner.pow(2).sum(), layer.weight)
    assert bool(outer.isfinite().all())


def test_a_batch_of_weights_is_refused():
    layer = LipschitzLinear(3, 4)
    weights = {"weight": torch.randn(2, 4, 3), "bias": torch.zeros(2, 4)}
    with pytest.raises(ConfigError, match="expected one weight"):
        torch.func.vmap(lambda p: torch.func.functional_call(layer, p, (torch.ones(1, 3),)))(weights)


def test_a_graph_may_be_freed_between_calls():
    layer, x = layers()[0]
    first, second = layer(x).sum(), layer(x).sum()
    first.backward()
    gradient = layer.weight.grad.clone()
    second.backward()
    torch.testing.assert_close(layer.weight.grad, 2 * gradient)


def test_the_norms_of_networks_ask_the_layer():
    layer, _ = layers()[0]
    assert lipschitz_bound(nn.Sequential(layer, nn.ReLU())) == pytest.approx(TARGET, rel=1e-5)


def test_an_edit_that_the_cache_missed_does_not_fool_the_bound():
    layer, _ = layers()[0]
    with torch.no_grad():
        layer.weight_in_use()
    # As if the comparison had failed.
    layer._cache._holds = lambda weight: True
    layer.weight.data.mul_(0.01)
    assert layer.lipschitz_bound() == pytest.approx(norm_of(layer.weight.detach(), 2))


def test_the_cache_forgets_sizes():
    cache, weight = WeightCache(), torch.ones(2)
    for key in range(30):
        assert cache.get(weight, key, lambda key=key: key) == key
    assert len(cache._values) <= 8


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_how_loose_a_convolutions_certificate_is(kernel, stride, size):
    layer = LipschitzConv2d(2, 3, kernel, stride=stride, padding=kernel // 2, lipschitz=1e-3)
    nn.init.normal_(layer.weight)
    ratio = 1e-3 / norm_of(dense_matrix(layer, (size, size)), 2)
    assert 1 <= ratio <= (LOOSEST if kernel == 1 else 1.25)


def test_certificates_say_where_the_norm_is_reached():
    weight = torch.randn(70, 120, dtype=torch.float64)
    found = matrix_certificate("test", weight)
    assert float((found.slope * weight).sum()) == pytest.approx(norm_of(weight, 2), rel=1e-9)
    layer = LipschitzConv2d(3, 4, 3, padding=1, padding_mode="circular").double()
    nn.init.normal_(layer.weight)
    certificate = convolution_certificate("test", layer.weight.detach(), layer.geometry(), 1, (5, 6))
    expected = norm_of(dense_matrix(layer, (5, 6)), 2) / float(
        (layer.weight_in_use((5, 6)).norm() / layer.weight.norm()).detach()
    )
    assert float((certificate.slope * layer.weight.detach()).sum()) == pytest.approx(expected, rel=1e-9)
