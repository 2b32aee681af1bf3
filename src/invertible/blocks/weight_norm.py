"""Convolutions with normalised weights, for any number of spatial axes, strided and transposed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.errors import ConfigError, require_positive

CONVOLUTIONS: dict[tuple[int, bool], Callable[..., Tensor]] = {
    (1, False): functional.conv1d,
    (2, False): functional.conv2d,
    (3, False): functional.conv3d,
    (1, True): functional.conv_transpose1d,
    (2, True): functional.conv_transpose2d,
    (3, True): functional.conv_transpose3d,
}


class WeightNormConv(nn.Module):
    """A convolution with weight g v/|v| (Salimans & Kingma 2016, equation 2); v is `weight`, g is `gain`.

    One gain for each slice of the weight along its first axis: for every output channel of a convolution, for every
    input channel of a transposed one, as `torch.nn.utils.weight_norm` has it. A module with torch's parametrisation
    cannot be pickled, or deep-copied once it has run; this one can.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        kernel: its size along each spatial axis, one to three of them.
        stride: likewise; 1 everywhere if `None`.
        padding: zeros on either side of each axis; none if `None`.
        bias: add one.
        transposed: the transposed convolution, which makes images larger.

    Shapes:
        (B, in_channels, *spatial) -> (B, out_channels, *spatial'), as torch's convolutions.

    Raises:
        ConfigError: if there are not one to three spatial axes, or a number is not positive.

    Example:
        >>> conv = WeightNormConv(16, 32, (3, 3), padding=(1, 1))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        *,
        stride: Sequence[int] | None = None,
        padding: Sequence[int] | None = None,
        bias: bool = True,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        axes = len(kernel)
        stride, padding = stride or (1,) * axes, padding or (0,) * axes
        if not 1 <= axes <= 3 or len(stride) != axes or len(padding) != axes:
            raise ConfigError(
                f"WeightNormConv: expected kernel, stride and padding for each of one to three spatial axes, got "
                f"{tuple(kernel)}, {tuple(stride)}, {tuple(padding)}."
            )
        require_positive("WeightNormConv", in_channels=in_channels, out_channels=out_channels)
        require_positive("WeightNormConv", **{f"kernel[{i}]": size for i, size in enumerate(kernel)})
        self.stride, self.padding, self.transposed = tuple(stride), tuple(padding), transposed
        channels = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.weight = nn.Parameter(torch.empty(*channels, *kernel))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.gain = nn.Parameter(self.weight.detach().flatten(1).norm(dim=1))
        bound = 1 / math.sqrt(self.weight[0].numel())
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def normalised_weight(self) -> Tensor:
        """g v/|v|, of v's shape."""
        # torch's own kernel, which its parametrisation calls too: a third of the time, half of the tensors saved.
        gain = self.gain.view(-1, *(1,) * (self.weight.dim() - 1))
        return torch._weight_norm(self.weight, gain, 0)  # pyright: ignore[reportPrivateImportUsage]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        weight, transposed = self.normalised_weight(), self.transposed
        if transposed and {*self.weight.shape[2:], *self.stride} == {1} and not any(self.padding):
            # A matrix at every position: the other kind of convolution is three times as quick with it.
            weight, transposed = weight.transpose(0, 1), False
        call = CONVOLUTIONS[weight.dim() - 2, transposed]
        return call(x, weight, self.bias, stride=self.stride, padding=self.padding)

    def extra_repr(self) -> str:
        """Shape of the weight and options, for `print(module)`."""
        kind = "transposed, " if self.transposed else ""
        return f"{kind}weight {tuple(self.weight.shape)}, stride={self.stride}, padding={self.padding}"
