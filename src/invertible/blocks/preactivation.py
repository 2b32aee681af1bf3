"""Residual functions with activation before convolution (He et al. 2016), and the shortcuts beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.errors import ConfigError


@dataclass(frozen=True)
class Normalisation:
    """Batch normalisation of the residual functions.

    Attributes:
        momentum: weight of the newest batch in the running averages.
        epsilon: added to the variance.
    """

    momentum: float = 0.01
    epsilon: float = 1e-3

    def layer(self, channels: int) -> nn.BatchNorm2d:
        """A layer."""
        return nn.BatchNorm2d(channels, eps=self.epsilon, momentum=self.momentum)

    def activation(self, channels: int) -> list[nn.Module]:
        """Batch normalisation and ReLU."""
        return [self.layer(channels), nn.ReLU(inplace=True)]


def basic(channels: int, out: int, norm: Normalisation, *, stride: int = 1, preactivated: bool = False) -> nn.Module:
    """BN, ReLU, 3 x 3, BN, ReLU, 3 x 3: the first convolution strided; BN and ReLU in front left out if preactivated.

    9 c o + 9 o^2 + 2 o + 2 c parameters from c to o channels, 2 c fewer if preactivated.
    """
    front = [] if preactivated else norm.activation(channels)
    return nn.Sequential(*front, _conv(channels, out, 3, stride), *norm.activation(out), _conv(out, out, 3))


def bottleneck(
    channels: int, out: int, norm: Normalisation, *, stride: int = 1, preactivated: bool = False
) -> nn.Module:
    """BN, ReLU, 1 x 1, BN, ReLU, 3 x 3, BN, ReLU, 1 x 1, a quarter of the output's channels inside.

    c m + 9 m^2 + m o + 4 m + 2 c parameters, m = o/4, 2 c fewer if preactivated.
    """
    inner = out // 4
    front = [] if preactivated else norm.activation(channels)
    return nn.Sequential(
        *front,
        _conv(channels, inner, 1, stride),
        *norm.activation(inner),
        _conv(inner, inner, 3),
        *norm.activation(inner),
        _conv(inner, out, 1),
    )


class PoolAndPad(nn.Module):
    """A shortcut without parameters: average pooling, and channels of zeros on either side (Gomez et al. 2017).

    Args:
        channels: of x.
        out: of y, larger by an even number or equal.
        stride: of the pooling.

    Raises:
        ConfigError: if the channels cannot be padded evenly.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        if out < channels or (out - channels) % 2:
            raise ConfigError(
                f"PoolAndPad: expected out to exceed channels={channels} by an even number, got {out}: as many zeros "
                "stand on either side."
            )
        self.padding, self.stride = (out - channels) // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H/stride, W/stride)."""
        if self.stride > 1:
            x = functional.avg_pool2d(x, self.stride)
        return functional.pad(x, (0, 0, 0, 0, self.padding, self.padding)) if self.padding else x


def projection(channels: int, out: int, stride: int) -> nn.Module:
    """A shortcut by a strided 1 x 1 convolution, without normalisation."""
    return _conv(channels, out, 1, stride)


def _conv(channels: int, out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, size, stride, padding=size // 2, bias=False)


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """Convolutions normal within two deviations of sqrt(2/(k^2 c_out)), linear layers uniform of variance 1/c_in.

    (He et al. 2015, equation 14; as the RevNet's code draws them.)
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            deviation = (2 / (module.kernel_size[0] * module.kernel_size[1] * module.out_channels)) ** 0.5
            nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        elif isinstance(module, nn.Linear):
            limit = (3 / module.in_features) ** 0.5
            nn.init.uniform_(module.weight, -limit, limit)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
