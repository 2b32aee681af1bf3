"""The residual function of the i-RIM, and its normalised convolutions."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from invertible import ConfigError
from invertible.blocks.gated_convnet import GatedConvNet
from invertible.blocks.weight_norm import WeightNormConv

pytestmark = pytest.mark.usefixtures("float64")
MODULES = {
    (1, False): nn.Conv1d,
    (2, False): nn.Conv2d,
    (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d,
    (2, True): nn.ConvTranspose2d,
    (3, True): nn.ConvTranspose3d,
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_normalised_convolutions_are_those_of_torch(axes: int, transposed: bool) -> None:
    kernel = (2, 3, 2)[:axes]
    own = WeightNormConv(3, 4, kernel, stride=kernel, bias=not transposed, transposed=transposed)
    theirs = parametrizations.weight_norm(
        MODULES[axes, transposed](3, 4, kernel, stride=kernel, bias=not transposed), dim=0
    )
    # It starts as the convolution itself.
    assert torch.allclose(own.normalised_weight(), own.weight, atol=1e-15)
    with torch.no_grad():
        own.gain.mul_(torch.linspace(0.5, 2, len(own.gain)))
        theirs.parametrizations.weight.original0.copy_(own.gain.view_as(theirs.parametrizations.weight.original0))
        theirs.parametrizations.weight.original1.copy_(own.weight)
        if not transposed:
            theirs.bias.copy_(own.bias)
    x = torch.randn(2, 3, *(6,) * axes)
    assert torch.allclose(own(x), theirs(x), atol=1e-13)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_keeps_any_size_and_is_what_it_is_on_padded_images(factor: int, axes: int) -> None:
    net = GatedConvNet(2, 3, 5, factor, spatial_dims=axes)
    sizes = (5, 7, 4)[:axes]
    x = torch.randn(2, 2, *sizes)
    y = net(x)
    assert y.shape == (2, 3, *sizes)
    padding = [-size % step for size, step in zip(sizes, net.factors, strict=True)]
    padded = functional.pad(x, [n for more in reversed(padding) for n in (0, more)])
    cropped = net(padded)[(..., *(slice(size) for size in sizes))]
    assert torch.allclose(y, cropped, atol=1e-14)
    # The gate: the whole of a doubled output.
    gated = net.up(functional.relu(net.middle(functional.relu(net.down(padded)))))
    a, b = gated.chunk(2, 1)
    assert torch.allclose((a * torch.sigmoid(b))[(..., *(slice(size) for size in sizes))], y, atol=1e-14)


def test_slices_of_volumes_are_downsampled_only_on_request() -> None:
    assert GatedConvNet(1, 1, 2, 4, spatial_dims=3).factors == (1, 4, 4)
    assert GatedConvNet(1, 1, 2, (2, 4, 4), spatial_dims=3).factors == (2, 4, 4)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("axes", [2, 3])
def test_number_of_parameters_is_as_documented(axes: int, gated: bool) -> None:
    net = GatedConvNet(4, 6, 5, (2,) * axes, spatial_dims=axes, gated=gated)
    out = 12 if gated else 6
    assert sum(p.numel() for p in net.parameters()) == 2**axes * 5 * (4 + out) + 3**axes * 25 + 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden"),
        ({"factor": 0}, "factor"),
        ({"factor": (2, 2, 2)}, "one for each spatial axis"),
        ({"spatial_dims": 4}, "spatial_dims of 1, 2 or 3"),
    ],
)
def test_refuses_at_construction(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GatedConvNet(**{"in_channels": 2, "out_channels": 2, "hidden": 3, **options})


def test_refuses_convolutions_over_other_than_one_to_three_axes() -> None:
    with pytest.raises(ConfigError, match="one to three spatial axes"):
        WeightNormConv(2, 2, (3, 3), stride=(1,))
    with pytest.raises(ConfigError, match=r"kernel\[1\]"):
        WeightNormConv(2, 2, (3, 0))
