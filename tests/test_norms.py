"""Bounds are bounds: no measured norm exceeds one."""

import math

import pytest
import torch
from torch import nn

from invertible.blocks.nets import MLP, ConvNet, ResidualConvNet
from invertible.errors import ConfigError
from invertible.norms import (
    ACTIVATIONS,
    additive_norms,
    convolution_norm,
    lipschitz_bound,
    logarithmic_norms,
    magnitude_bound,
    matrix_norm,
    ode_log_norms,
    ode_norms,
    padding_factor,
    residual_norms,
    row_sum_norm,
    shear_norm,
    two_sided_norms,
    unbounded_layers,
)
from invertible.norms.convolutions import _reshaped, _sum_over_taps
from invertible.norms.symbol import symbol_norm
from tests.tools import randomise

EXACT = 1 + 1e-12


def jacobian_norm(net: nn.Module, shape: tuple[int, ...], scale: float = 1.0) -> float:
    x = scale * torch.randn(shape, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda v: net(v[None])[0].flatten())(x)
    return float(torch.linalg.matrix_norm(jacobian.detach().reshape(-1, x.numel()), 2))


# Convolutions.


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [4, 7])
def test_convolution_norm_bounds_the_dense_operator(kernel: int, stride: int, size: int) -> None:
    for _ in range(5):
        conv = nn.Conv2d(3, 4, kernel, stride, padding=kernel // 2, bias=False).double()
        exact = jacobian_norm(conv, (3, size, size))
        assert exact <= convolution_norm(conv.weight, stride) * EXACT
        assert convolution_norm(conv.weight, stride) <= convolution_norm(conv.weight) * 1.006
        if kernel == 1 and stride == 1:
            assert exact == pytest.approx(convolution_norm(conv.weight), rel=1e-12)


CONVOLUTIONS = {
    "strides": (2, {"kernel_size": (3, 2), "stride": (1, 3), "padding": 1}),
    "dilated": (2, {"kernel_size": 3, "dilation": 2, "padding": 2}),
    "dilated-strided": (2, {"kernel_size": 3, "dilation": 3, "stride": 2, "padding": 3}),
    "groups": (2, {"kernel_size": 3, "groups": 2, "padding": 1}),
    "depthwise": (2, {"kernel_size": 3, "groups": 4, "padding": "same"}),
    "one-axis": (1, {"kernel_size": 5, "padding": 2, "stride": 2}),
    "three-axes": (3, {"kernel_size": 2, "padding": 1}),
    "circular": (2, {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}),
    "circular-strided": (2, {"kernel_size": 3, "padding": 1, "stride": 2, "padding_mode": "circular"}),
    "circular-wide": (1, {"kernel_size": 3, "padding": 4, "padding_mode": "circular"}),
    "reflect": (2, {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}),
    "reflect-wide": (1, {"kernel_size": 3, "padding": 3, "stride": 2, "padding_mode": "reflect"}),
    "replicate": (2, {"kernel_size": 5, "padding": (2, 1), "padding_mode": "replicate"}),
    "replicate-same": (1, {"kernel_size": 4, "padding": "same", "padding_mode": "replicate"}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_every_kind_of_convolution_is_bounded_at_every_size(name: str) -> None:
    axes, options = CONVOLUTIONS[name]
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]
    for size in (5, 6, 8) if axes < 3 else (3, 4):
        for _ in range(4):
            conv = kind(4, 4, bias=False, **options).double()
            # Kernels of one sign are where the edges weigh most.
            conv.weight.data.abs_() if size == 5 else None
            bound = lipschitz_bound(conv)
            assert math.isfinite(bound)
            assert jacobian_norm(conv, (4, *[size] * axes)) <= bound * EXACT


@pytest.mark.parametrize("options", [{"stride": 2}, {"stride": 2, "padding": 1, "output_padding": 1}, {"groups": 2}])
def test_transposed_convolutions_are_bounded(options: dict) -> None:
    for _ in range(6):
        conv = nn.ConvTranspose2d(4, 6, 3, **options).double()
        assert jacobian_norm(conv, (4, 4, 5)) <= lipschitz_bound(conv) * EXACT


@pytest.mark.parametrize("shape", [(3, 3, 3, 3), (4, 2, 5, 5), (6, 3, 2, 3), (2, 2, 9), (2, 3, 3, 3, 3)])
def test_the_transfer_functions_maximum_is_bounded_within_half_a_percent(shape: tuple[int, ...]) -> None:
    for _ in range(5):
        weight = torch.randn(shape, dtype=torch.float64)
        axes = len(shape) - 2
        sizes = {1: (4096,), 2: (128, 128), 3: (24, 24, 24)}[axes]
        transfer = torch.fft.fftn(weight, s=sizes, dim=tuple(range(2, 2 + axes))).flatten(2).permute(2, 0, 1)
        sampled = float(torch.linalg.matrix_norm(transfer, 2).max())
        assert sampled <= convolution_norm(weight) * EXACT
        assert convolution_norm(weight) <= sampled * (1.007 if axes < 3 else 1.06)


def test_a_bound_follows_a_narrow_peak() -> None:
    """A long kernel whose transfer function has its maximum between the points of the first grid."""
    size, where = 15, 2 * math.pi * 0.2371
    weight = torch.cos(where * torch.arange(size, dtype=torch.float64)).reshape(1, 1, size)
    fine = torch.fft.fft(weight.flatten(), n=2**16).abs().max()
    assert float(fine) <= convolution_norm(weight) <= 1.006 * float(fine)
    # Grid points alone are no bound: those of the first grid miss it.
    assert torch.fft.fft(weight.flatten(), n=16).abs().max() < fine


def test_large_images_attain_the_convolution_bound() -> None:
    """Zero padding approaches the supremum from below as the image grows (figures in docs/guides/bounds.md)."""
    conv = nn.Conv2d(2, 2, 3, padding=1, bias=False).double()
    ratios = [jacobian_norm(conv, (2, size, size)) / convolution_norm(conv.weight) for size in (2, 4, 8, 14)]
    assert ratios == sorted(ratios)
    assert 0.9 < ratios[-1] <= EXACT


def test_where_the_work_is_too_much_other_bounds_hold() -> None:
    kernel = torch.randn(1, 3, 4, 3, 3, dtype=torch.float64)
    assert symbol_norm(kernel, work=10.0).value == math.inf
    sup = symbol_norm(kernel).value / 1.006
    coarse = symbol_norm(kernel, work=60_000.0)
    assert sup <= coarse.value < math.inf
    assert coarse.slack > symbol_norm(kernel).slack
    assert sup <= _reshaped(kernel)
    assert sup <= _sum_over_taps(kernel)


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_padding_factor_is_the_norm_of_the_padding(mode: str) -> None:
    eye = torch.eye(4, dtype=torch.float64)[None]
    for ends in ((1, 0), (2, 1), (3, 3)):
        padded = nn.functional.pad(eye, ends, mode=mode)[0]
        norm = float(torch.linalg.matrix_norm(padded, 2))
        assert norm <= padding_factor(mode, ends[:1], ends[1:]) * EXACT
    one = nn.functional.pad(torch.ones(1, 1, 1, dtype=torch.float64), (2, 3), mode="replicate")
    assert float(one.norm()) == pytest.approx(padding_factor("replicate", [2], [3]))
    assert padding_factor("mirror", [1], [1]) == math.inf


# Other layers, and networks.

LAYERS = {
    "avg-pool": (nn.AvgPool2d(2), (2, 6, 6)),
    "avg-pool-overlapping": (nn.AvgPool2d(3, 1, padding=1), (2, 5, 5)),
    "avg-pool-ceil": (nn.AvgPool1d(3, 2, ceil_mode=True), (2, 8)),
    "avg-pool-no-padding": (nn.AvgPool2d(3, 2, padding=1, count_include_pad=False), (1, 5, 5)),
    "avg-pool-divisor": (nn.AvgPool2d(2, divisor_override=1), (1, 4, 4)),
    "max-pool": (nn.MaxPool2d(2), (2, 6, 6)),
    "max-pool-overlapping": (nn.MaxPool1d(3, 1), (1, 9)),
    "max-pool-dilated": (nn.MaxPool1d(3, 2, dilation=2), (1, 9)),
    "adaptive-avg-pool": (nn.AdaptiveAvgPool2d((1, 3)), (2, 4, 2)),
    "adaptive-avg-pool-global": (nn.AdaptiveAvgPool2d(1), (2, 4, 4)),
    "adaptive-max-pool": (nn.AdaptiveMaxPool1d(5), (1, 2)),
    "upsample": (nn.Upsample(scale_factor=2), (2, 3, 3)),
    "reflection-pad": (nn.ReflectionPad2d(2), (1, 3, 3)),
    "circular-pad": (nn.CircularPad1d(3), (1, 3)),
    "replication-pad": (nn.ReplicationPad1d((1, 4)), (1, 2)),
    "zero-pad": (nn.ZeroPad2d(2), (1, 3, 3)),
    "pixel-shuffle": (nn.PixelShuffle(2), (4, 2, 2)),
    "flatten": (nn.Flatten(), (2, 3)),
    "softmax": (nn.Softmax(1), (5,)),
    "layer-norm": (nn.LayerNorm(6, eps=1e-2), (6,)),
    "group-norm": (nn.GroupNorm(2, 4, eps=1e-2), (4, 3)),
    "instance-norm": (nn.InstanceNorm1d(3, affine=True), (3, 5)),
    "rms-norm": (nn.RMSNorm(5, eps=1e-2), (5,)),
    "prelu": (nn.PReLU(4, init=-2.0), (4,)),
    "celu": (nn.CELU(0.3), (4,)),
    "dropout": (nn.Dropout(0.5), (4,)),
    "softplus": (nn.Softplus(beta=3.0), (4,)),
    "residual-net": (ResidualConvNet(2, 4, 5, 2), (2, 4, 4)),
    "conv-net": (ConvNet(3, 4, (6, 6)), (3, 5, 5)),
    "mlp": (MLP(5, 4, (7, 6)), (5,)),
    "sequential": (nn.Sequential(nn.Linear(4, 5), nn.ELU(1.5), nn.Linear(5, 3), nn.LeakyReLU(2.0)), (4,)),
    "classifier": (
        nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 2)
        ),
        (1, 6, 6),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_network_bound_holds(name: str) -> None:
    net, shape = LAYERS[name]
    net = net.double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.1, 2.0)
    for scale in (0.01, 0.1, 1.0, 10.0, 1.0):
        randomise(net)
        bound = lipschitz_bound(net)
        assert math.isfinite(bound)
        assert jacobian_norm(net, shape, scale) <= bound * EXACT


@pytest.mark.parametrize(
    "name",
    [
        "avg-pool",
        "adaptive-avg-pool-global",
        "upsample",
        "circular-pad",
        "zero-pad",
        "avg-pool-divisor",
        "replication-pad",
    ],
)
def test_bounds_of_linear_layers_are_not_far_from_their_norms(name: str) -> None:
    net, shape = LAYERS[name]
    assert jacobian_norm(net.double().eval(), shape) > lipschitz_bound(net) / 4.5


def test_layer_norm_attains_its_bound_where_all_numbers_are_equal() -> None:
    net = nn.LayerNorm(6).double()
    assert jacobian_norm(net, (6,), 1e-9) == pytest.approx(lipschitz_bound(net), rel=1e-6)


def test_activation_constants_bound_their_slopes_and_are_tight() -> None:
    x = torch.linspace(-30, 30, 600_001, dtype=torch.float64, requires_grad=True)
    for kind, constant in ACTIVATIONS.items():
        (slope,) = torch.autograd.grad(kind()(x).sum(), x)
        assert constant * 0.999 <= slope.abs().max() <= constant * EXACT, kind
    assert lipschitz_bound(nn.RReLU(1.0, 2.0).eval()) == 1.5
    assert lipschitz_bound(nn.RReLU()) == math.inf
    (slope,) = torch.autograd.grad(nn.GELU("tanh")(x).sum(), x)
    assert slope.abs().max() <= ACTIVATIONS[nn.GELU]


def test_the_mode_counts() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.1))
    assert lipschitz_bound(net) == math.inf
    assert unbounded_layers(net) == [
        "BatchNorm1d has no bound in training mode: call eval()",
        "Dropout has no bound in training mode: call eval()",
    ]
    assert math.isfinite(lipschitz_bound(net.eval()))
    assert unbounded_layers(net) == []


class OwnForward(nn.Linear):
    def forward(self, x):
        return 10 * super().forward(x)


class OwnBound(OwnForward):
    def lipschitz_bound(self):
        return 10 * matrix_norm(self.weight)


def test_unknown_modules_have_no_bound_and_say_so() -> None:
    for net, words in (
        (nn.Sequential(nn.Linear(2, 2), nn.Bilinear(1, 1, 1)), "the norm of Bilinear is not known"),
        (OwnForward(2, 2), "the norm of OwnForward is not known"),
        (nn.ModuleList([nn.Linear(2, 2)]), "the norm of ModuleList is not known"),
        (nn.Hardshrink(), "the norm of Hardshrink is not known"),
        (nn.Softplus(threshold=1.0), "Softplus is not Lipschitz with these arguments"),
        (nn.Sequential(OwnBound(2, 2), nn.MultiheadAttention(2, 1)), "the norm of MultiheadAttention is not known"),
    ):
        assert lipschitz_bound(net) == math.inf
        assert words in unbounded_layers(net)[0]
    broken = nn.Linear(2, 2)
    broken.weight.data[0, 0] = math.nan
    assert lipschitz_bound(broken) == math.inf
    assert "not finite" in unbounded_layers(broken)[0]
    assert lipschitz_bound(OwnBound(3, 3)) > 0
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: 10 * x
    assert lipschitz_bound(layer) == math.inf


@pytest.mark.filterwarnings("ignore:.*torch.nn.utils.weight_norm.*:FutureWarning")
def test_weights_in_use_are_those_that_count() -> None:
    for wrap in (torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm):
        layer = wrap(nn.Linear(4, 4)).double().eval()
        layer(torch.zeros(1, 4, dtype=torch.float64))
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(torch.tensor([3.0], dtype=torch.float64)).add_(0.1)
        # The attribute is still that of the last call.
        assert jacobian_norm(layer, (4,)) <= lipschitz_bound(layer) * EXACT
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)).double().eval()
    assert lipschitz_bound(layer) == pytest.approx(jacobian_norm(layer, (4,)))


@pytest.mark.parametrize("name", LAYERS)
def test_no_output_exceeds_its_magnitude_bound(name: str) -> None:
    net, shape = LAYERS[name]
    net = randomise(net).double().eval()
    radius = 2.0 * torch.rand(shape[0], dtype=torch.float64)
    bound = magnitude_bound(net, radius)
    x = torch.randn(64, *shape, dtype=torch.float64)
    x[32:] = x[32:].sign()
    x = x.clamp(-1, 1) * radius.reshape(-1, *[1] * (len(shape) - 1))
    y = net(x)
    reach = y.abs().transpose(0, 1).flatten(1).amax(1)
    assert bool((reach <= bound * EXACT).all())


def test_magnitudes_are_exact_for_one_layer_and_survive_infinity() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[3.0, 0.0]])
    assert float(magnitude_bound(layer, torch.tensor([2.0, math.inf]))) == pytest.approx(6.0)
    squashed = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1, bias=False))
    assert float(magnitude_bound(squashed, torch.tensor([math.inf]))) == pytest.approx(
        float(squashed[2].weight.detach().abs().sum())
    )
    assert float(magnitude_bound(nn.Bilinear(1, 1, 1), torch.ones(1))) == math.inf


# Matrices and formulas.


def test_matrix_norms_are_outward_of_the_singular_values() -> None:
    assert matrix_norm(torch.diag(torch.tensor([1.0, -3.0]))) == pytest.approx(3.0)
    for _ in range(200):
        weight = torch.randn(6, 6, dtype=torch.float64) * 10 ** float(torch.randn(()))
        values = torch.linalg.svdvals(weight)
        forward, inverse = two_sided_norms(weight)
        assert values[0] < forward < values[0] * (1 + 1e-12)
        assert 1 / values[-1] < inverse < 1 / values[-1] * (1 + 1e-9)
        assert row_sum_norm(weight) >= weight.abs().sum(1).max()
    assert two_sided_norms(torch.zeros(3, 3)) == (0.0, math.inf)
    assert two_sided_norms(torch.tensor([[1.0, 1.0], [1.0, 1.0]]))[1] == math.inf
    assert matrix_norm(torch.full((2, 2), math.inf)) == math.inf


@pytest.mark.parametrize("tau", [0.0, 1e-12, 1e-9, 1e-3, 0.5, 1.0, 10.0, 1e6])
def test_additive_norm_is_that_of_its_worst_jacobian(tau: float) -> None:
    exact, _ = additive_norms(tau)
    assert exact == pytest.approx((tau + math.sqrt(tau**2 + 4)) / 2, rel=1e-12)
    dense = torch.tensor([[1.0, 0.0], [tau, 1.0]], dtype=torch.float64)
    assert exact == pytest.approx(float(torch.linalg.matrix_norm(dense, 2)), rel=1e-12)
    # For small tau 1 + tau/2 - not 1, as where tau^2 is lost beside 2.
    assert exact >= 1 + tau / 2
    assert exact <= additive_norms(tau, exact=False)[0]


def test_shear_norm_bounds_block_triangular_matrices() -> None:
    for _ in range(500):
        b, d = torch.randn(3, 2, dtype=torch.float64).mul(3), torch.diag(torch.randn(3, dtype=torch.float64))
        lower = torch.cat((torch.cat((torch.eye(2), torch.zeros(2, 3)), 1).double(), torch.cat((b, d), 1)))
        norms = (float(torch.linalg.matrix_norm(each, 2)) for each in (d, b))
        assert float(torch.linalg.matrix_norm(lower, 2)) <= shear_norm(*norms) * EXACT
    assert shear_norm(math.inf, 0.0) == shear_norm(1.0, math.inf) == math.inf


def test_residual_norms_bound_random_residual_maps() -> None:
    for _ in range(200):
        weight = torch.randn(4, 4, dtype=torch.float64)
        weight *= float(torch.rand(())) / torch.linalg.matrix_norm(weight, 2)
        forward, inverse = residual_norms(matrix_norm(weight))
        values = torch.linalg.svdvals(torch.eye(4, dtype=torch.float64) + weight)
        assert values[0] <= forward
        assert 1 / values[-1] <= inverse * (1 + 1e-9)
    assert residual_norms(0.5) == pytest.approx((1.5, 2.0))
    assert residual_norms(1.0)[1] == math.inf


def test_ode_norms_bound_the_flows_of_linear_systems() -> None:
    tighter = 0
    for _ in range(500):
        field = torch.randn(4, 4, dtype=torch.float64)
        time = float(torch.rand(()))
        values = torch.linalg.svdvals(torch.linalg.matrix_exp(field * time))
        by_norm = ode_norms(matrix_norm(field), time)
        largest, smallest = logarithmic_norms(field)
        by_sign = ode_log_norms(largest, smallest, time)
        for forward, inverse in (by_norm, by_sign):
            assert values[0] <= forward * EXACT
            assert 1 / values[-1] <= inverse * (1 + 1e-10)
        tighter += by_sign[0] < by_norm[0]
    assert tighter > 450
    rotation = logarithmic_norms(torch.tensor([[0.0, -5.0], [5.0, 0.0]]))
    assert ode_log_norms(*rotation) == pytest.approx((1.0, 1.0))


def test_logarithmic_norms_add_up_over_spans_of_time() -> None:
    assert ode_log_norms([1.0, -2.0], [0.0, -3.0], [0.5, 1.0]) == pytest.approx((math.exp(-1.5), math.exp(3.0)))
    assert ode_norms(1e6) == (math.inf, math.inf)
    assert ode_norms(math.inf, 0.0) == pytest.approx((1.0, 1.0))
    with pytest.raises(ConfigError, match="as many values"):
        ode_log_norms([1.0, 2.0], [0.0], 1.0)
    with pytest.raises(ConfigError, match="smallest <= largest"):
        ode_log_norms(0.0, 1.0)
    with pytest.raises(ConfigError, match="expected lipschitz >= 0"):
        residual_norms(-1.0)
