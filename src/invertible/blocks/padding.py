"""Channels of zeros, which make an injective network of a bijective one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from invertible.blocks.swap import SwapResidual
from invertible.errors import ConfigError, require_positive
from invertible.shapes import check_input


class ChannelPadding(nn.Module):
    """y = (x, 0): zeros behind the channels, as the injective i-RevNet has them (Jacobsen et al. 2018, section 3.1).

    No bijection, but with an inverse on its range: `inverse` drops the padding, whatever it holds, and `residual` tells
    how far that is from zeros, by which y is off the range.

    A batch normalisation that sees the zeros multiplies rounding errors in their place by 1/sqrt(epsilon), and a ReLU
    behind it takes their sign for that of data, where exact zeros have gradient 0. So do not let the layers that see
    the padding be rebuilt from their output: `Sequential(ChannelPadding(...), ..., keep_input=True)` runs them again
    from their input.

    Args:
        channels: of x.
        padded: of y.

    Shapes:
        x: (B, channels, ...); y: (B, padded, ...), any number of axes behind.

    Raises:
        ConfigError: if `padded` is not larger than `channels`.
        ShapeError: on another number of channels.

    Example:
        >>> block = ChannelPadding(3, 32)
        >>> y = block(torch.randn(2, 3, 32, 32))
    """

    exact = True

    def __init__(self, channels: int, padded: int) -> None:
        super().__init__()
        require_positive("ChannelPadding", channels=channels, padded=padded)
        if padded <= channels:
            raise ConfigError(f"ChannelPadding: expected padded above channels={channels}, got {padded}.")
        self.channels, self.padded = channels, padded

    def forward(self, x: Tensor) -> Tensor:
        """(x, 0)."""
        check_input("ChannelPadding", x, self.channels, None)
        return torch.cat((x, x.new_zeros(len(x), self.padded - self.channels, *x.shape[2:])), 1)

    def inverse(self, y: Tensor) -> Tensor:
        """The first channels."""
        check_input("ChannelPadding", y, self.padded, None)
        return y[:, : self.channels]

    def residual(self, y: Tensor) -> Tensor:
        """The 2-norm of what `inverse` drops, (B,): the distance of y from the nearest point of the range."""
        check_input("ChannelPadding", y, self.padded, None)
        dropped = y[:, self.channels :].flatten(1)
        return torch.linalg.vector_norm(dropped, dim=1)

    def extra_repr(self) -> str:
        """The two numbers of channels."""
        return f"{self.channels}, {self.padded}"


class PaddedSwapResidual(nn.Module):
    """A `SwapResidual` of (x, 0): the block with which the injective i-RevNet widens (Jacobsen et al. 2018).

    Inverse, of y on the range: as that of the block, but that x_2 is known to be zero where it is padding, and is set
    to zero before F sees it. The released code lets F see the rounding errors of x_2 instead. Where x_2 is padding
    alone, training leaves the batch normalisations inside F with variances of 0, and each of them then multiplies these
    errors by 1/sqrt(epsilon) = 316: what comes out is no image.

    Args:
        block: the block on padded channels.
        channels: of x.
        padded: of (x, 0).

    Shapes:
        x: (B, channels, ...); y: as the block returns it.

    Raises:
        ConfigError: if `padded` is odd or not larger than `channels`.

    Example:
        >>> layer = PaddedSwapResidual(SwapResidual(nn.Conv2d(16, 16, 3, padding=1)), 3, 32)
        >>> y = layer(torch.randn(2, 3, 32, 32))
    """

    def __init__(self, block: SwapResidual, channels: int, padded: int) -> None:
        super().__init__()
        if padded % 2:
            raise ConfigError(f"PaddedSwapResidual: expected an even number padded, each half a stream, got {padded}.")
        self.padding, self.block = ChannelPadding(channels, padded), block

    def forward(self, x: Tensor) -> Tensor:
        """The block of (x, 0)."""
        return self.block(self.padding(x))[0]

    def inverse(self, y: Tensor) -> Tensor:
        """x, and nothing of what stands in place of the padding."""
        return self.padding.inverse(self._padded(y))

    def residual(self, y: Tensor) -> Tensor:
        """The 2-norm of what `inverse` drops, (B,): 0 for y on the range, the error of the inverse apart."""
        passive = self.block.passive(y)
        own = self._own(passive)
        beside = self.padding.residual(self.block.undone(passive * own, y)).square()
        return (beside + (passive * (1 - own)).flatten(1).square().sum(1)).sqrt()

    def _padded(self, y: Tensor) -> Tensor:
        passive = self.block.passive(y)
        return self.block.undone(passive * self._own(passive), y)

    def _own(self, passive: Tensor) -> Tensor:
        """1 for channels of x, 0 for those of the padding."""
        half = passive.shape[1]
        own = torch.arange(half, 2 * half, device=passive.device) < self.padding.channels
        return own.to(passive.dtype).view(-1, *(1,) * (passive.dim() - 2))
