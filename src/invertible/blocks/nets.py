"""Conditioners: the inner networks of couplings.

A factory of a conditioner is a callable `(in_features, out_features) -> nn.Module`. The last layer starts at zero, so
that a coupling starts as the identity or close to it (Kingma & Dhariwal 2018, section 3.3).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.errors import ConfigError, require_positive
from invertible.norms import convolution_norm, lipschitz_bound, magnitude_bound, outward, times

NetFactory = Callable[[int, int], nn.Module]


class MLP(nn.Module):
    """Linear layers with ReLU between them; the last layer starts at zero.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        hidden: widths of the hidden layers.
    """

    def __init__(self, in_features: int, out_features: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        widths = (in_features, *hidden)
        require_positive("MLP", **{f"hidden[{index}]": width for index, width in enumerate(hidden)})
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.last = _zero(nn.Linear(widths[-1], out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) -> (B, out_features)."""
        for layer in self.layers:
            x = functional.relu(layer(x), inplace=True)
        return self.last(x)

    def lipschitz_bound(self) -> float:
        """Product of the layers' norms."""
        return _product(*self.layers, self.last)

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """Layer by layer; ReLU makes nothing larger."""
        return _through((*self.layers, self.last), magnitudes)


class ConvNet(nn.Module):
    """Glow's conditioner on images: convolutions of size k, then 1, then k with ReLU between them, the last one zero.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        hidden: channels of the hidden layers, at least one.
        kernel_size: odd size k of the first and the last kernel; those between are 1 x 1.
    """

    def __init__(
        self, in_features: int, out_features: int, hidden: Sequence[int] = (64, 64), kernel_size: int = 3
    ) -> None:
        super().__init__()
        if not hidden or kernel_size % 2 != 1:
            raise ConfigError(
                f"ConvNet: expected hidden layers and an odd kernel_size, got {hidden} and {kernel_size}."
            )
        require_positive("ConvNet", **{f"hidden[{index}]": width for index, width in enumerate(hidden)})
        widths = (in_features, *hidden)
        sizes = (kernel_size, *(1 for _ in hidden[1:]))
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, size, padding=size // 2) for (a, b), size in zip(pairwise(widths), sizes, strict=True)
        )
        self.last = _zero(nn.Conv2d(widths[-1], out_features, kernel_size, padding=kernel_size // 2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features, H, W) -> (B, out_features, H, W)."""
        for layer in self.layers:
            x = functional.relu(layer(x), inplace=True)
        return self.last(x)

    def lipschitz_bound(self) -> float:
        """Product of bounds of the layers' operator norms."""
        return _product(*self.layers, self.last)

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """Layer by layer; ReLU makes nothing larger."""
        return _through((*self.layers, self.last), magnitudes)


class WeightNormConv2d(nn.Conv2d):
    """A convolution with weight g v/|v| for every output channel (Salimans & Kingma 2016); v is `weight`.

    torch's parametrisation does the same, but a module with it cannot be pickled.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int = 0) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=padding)
        self.gain = nn.Parameter(self.weight.detach().flatten(1).norm(dim=1))

    def normalised_weight(self) -> Tensor:
        """g v/|v|, of shape (out, in, kernel, kernel)."""
        return self.weight * (self.gain / self.weight.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        return self._conv_forward(input, self.normalised_weight(), self.bias)

    def lipschitz_bound(self) -> float:
        """Bound of the operator norm, with the weight in use."""
        return outward(convolution_norm(self.normalised_weight()), self.weight[0].numel())

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """Sums of |weight| over inputs and taps, and the bias."""
        sums = self.normalised_weight().double().abs().flatten(2).sum(2).cpu()
        # 0 times infinity is 0.
        terms = torch.where(sums > 0, sums * magnitudes, 0.0)
        return terms.sum(1) + (0.0 if self.bias is None else self.bias.double().abs().cpu())


class ResidualConvNet(nn.Module):
    """RealNVP's conditioner on images: pre-activation residual blocks of two 3 x 3 convolutions, weight-normalised.

    Dinh et al. (2017, section 3.4) normalise by batch inside; here nothing depends on other samples of the batch,
    so that a sample's density is its own.

    Args:
        in_features: channels of the input.
        out_features: channels of the output.
        channels: channels of the residual stream.
        blocks: number of residual blocks.
    """

    def __init__(self, in_features: int, out_features: int, channels: int = 64, blocks: int = 8) -> None:
        super().__init__()
        require_positive("ResidualConvNet", channels=channels, blocks=blocks)
        self.first = nn.Conv2d(in_features, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                WeightNormConv2d(channels, channels, 3, padding=1),
                nn.ReLU(inplace=True),
                WeightNormConv2d(channels, channels, 3, padding=1),
            )
            for _ in range(blocks)
        )
        self.last = _zero(nn.Conv2d(channels, out_features, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features, H, W) -> (B, out_features, H, W)."""
        hidden = self.first(x)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(functional.relu(hidden))

    def lipschitz_bound(self) -> float:
        """Product over layers, 1 + Lip(block) for a residual block."""
        bound = _product(self.first, self.last)
        for block in self.blocks:
            bound = outward(times(bound, 1 + lipschitz_bound(block)))
        return bound

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """Layer by layer, adding up along the residual stream."""
        hidden = magnitude_bound(self.first, magnitudes)
        for block in self.blocks:
            hidden = hidden + magnitude_bound(block, hidden)
        return magnitude_bound(self.last, hidden)


def _product(*layers: nn.Module) -> float:
    bound = 1.0
    for layer in layers:
        bound = outward(times(bound, lipschitz_bound(layer)))
    return bound


def _through(layers: Sequence[nn.Module], magnitudes: Tensor) -> Tensor:
    for layer in layers:
        magnitudes = magnitude_bound(layer, magnitudes)
    return magnitudes


def mlp(hidden: Sequence[int] = (64, 64)) -> NetFactory:
    """Factory of `MLP`."""
    return lambda in_features, out_features: MLP(in_features, out_features, hidden)


def convnet(hidden: Sequence[int] = (64, 64), kernel_size: int = 3) -> NetFactory:
    """Factory of `ConvNet`."""
    return lambda in_features, out_features: ConvNet(in_features, out_features, hidden, kernel_size)


def residual_convnet(channels: int = 64, blocks: int = 8) -> NetFactory:
    """Factory of `ResidualConvNet`."""
    return lambda in_features, out_features: ResidualConvNet(in_features, out_features, channels, blocks)


def default_net(spatial_dims: int, hidden: Sequence[int]) -> NetFactory:
    """`mlp` for vectors, `convnet` for images.

    Raises:
        ConfigError: for another number of spatial axes.
    """
    if spatial_dims not in (0, 2):
        raise ConfigError(
            f"coupling: expected spatial_dims of 0 (vectors) or 2 (images), got {spatial_dims}. "
            "For others pass net, a factory (in_features, out_features) -> Module."
        )
    return convnet(hidden) if spatial_dims == 2 else mlp(hidden)


def fit_condition(condition: Tensor, x: Tensor) -> Tensor:
    """Give a condition the spatial axes of x: a vector is repeated at every position, a map is average-pooled.

    Args:
        condition: (B, F), or (B, F, *spatial).
        x: (B, C, *spatial).
    """
    if condition.dim() == x.dim() and condition.shape[2:] == x.shape[2:]:
        return condition
    if condition.dim() == 2:
        return condition.view(*condition.shape, *(1,) * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
    pool = {
        3: functional.adaptive_avg_pool1d,
        4: functional.adaptive_avg_pool2d,
        5: functional.adaptive_avg_pool3d,
    }
    return pool[x.dim()](condition, x.shape[2:])


def _zero(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
