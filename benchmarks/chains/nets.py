"""The networks F and G that every competitor wraps."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Pairs = list[tuple[nn.Module, nn.Module]]
NetFactory = Callable[[int, int], nn.Module]


@dataclass(frozen=True)
class LogScale:
    """log s = slope tanh(raw) + shift, for affine blocks."""

    slope: float = 1.0
    shift: float = 0.0

    def __call__(self, raw: Tensor) -> Tensor:
        """The logarithm of the scale, elementwise."""
        return self.slope * torch.tanh(raw) + self.shift


def conv(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    """3 x 3, keeping the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def batch_normalised(inputs: int, outputs: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """conv3x3 - batch norm - activation - conv3x3 - batch norm."""
    return nn.Sequential(
        conv(inputs, inputs, bias=False),
        nn.BatchNorm2d(inputs),
        activation(),
        conv(inputs, outputs, bias=False),
        nn.BatchNorm2d(outputs),
    )


def batch_normalised_gelu(inputs: int, outputs: int) -> nn.Module:
    """The same with GELU: gradients in float32 that no flip of a ReLU disturbs."""
    return batch_normalised(inputs, outputs, nn.GELU)


def smooth(inputs: int, outputs: int, *middle: nn.Module) -> nn.Module:
    """conv3x3 - tanh - `middle` - conv3x3: no state, no kinks."""
    return nn.Sequential(conv(inputs, inputs), nn.Tanh(), *middle, conv(inputs, outputs))


def make_pairs(length: int, channels: int, net: NetFactory, *, affine: bool = False, seed: int = 0) -> Pairs:
    """(F, G) of every block on halves of the channels, with twice the outputs if affine; the same for every caller."""
    torch.manual_seed(seed)
    half = channels // 2
    return [tuple(net(half, half * (1 + affine)) for _ in range(2)) for _ in range(length)]  # pyright: ignore


def parameters(pairs: Pairs) -> list[nn.Parameter]:
    """Their parameters, each once, in an order that does not depend on the competitor."""
    found = {id(p): p for pair in pairs for net in pair for p in net.parameters()}
    return list(found.values())


def input_channels(net: nn.Module) -> int:
    """Channels of the first convolution."""
    return next(module.in_channels for module in net.modules() if isinstance(module, nn.Conv2d))
