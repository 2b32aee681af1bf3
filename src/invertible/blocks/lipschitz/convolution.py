"""Convolutions whose operator norm at their image size is certified to be at most a target, at every call."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invertible.blocks.lipschitz.certificate import Certificate
from invertible.blocks.lipschitz.layer import LipschitzLayer
from invertible.blocks.lipschitz.sums import convolution_sums
from invertible.blocks.lipschitz.torus import Geometry
from invertible.blocks.lipschitz.transfer import convolution_certificate
from invertible.norms import convolution_norm, outward
from invertible.norms.layers import pads

Sizes = int | Sequence[int]


class LipschitzConvolution(LipschitzLayer):
    """Base of the convolutions, for any number of spatial axes.

    See `LipschitzConv2d`.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        *,
        lipschitz: float = 1.0,
        norm: float = 2,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **options)  # pyright: ignore[reportCallIssue]
        self.set_target(lipschitz, norm)

    def geometry(self) -> Geometry:
        """Kernel size, stride, dilation and padding."""
        ends = pads(self)  # pyright: ignore[reportArgumentType]
        return Geometry(
            self.kernel_size, self.stride, self.dilation, tuple(ends[::2]), tuple(ends[1::2]), self.padding_mode
        )

    def forward(self, input: Tensor) -> Tensor:
        """(B, in, *spatial) -> (B, out, *spatial')."""
        size = tuple(input.shape[-len(self.kernel_size) :])
        convolve: Any = self._conv_forward
        return convolve(input, self.weight_in_use(size), self.bias)

    def certificate(self, weight: Tensor, size: tuple[int, ...] = ()) -> Certificate:
        """Bound of the norm of a weight for images of a size."""
        return self._certificate(weight, size, self.norm)

    def _certificate(self, weight: Tensor, size: tuple[int, ...], norm: float, *, exact: bool = False) -> Certificate:
        name, geometry = type(self).__name__, self.geometry()
        if norm == 2:
            return convolution_certificate(name, weight, geometry, self.groups, size, exact=exact)
        return convolution_sums(name, weight, norm, geometry, self.groups)

    def lipschitz_bound(self, norm: float = 2, size: tuple[int, ...] | None = None) -> float:
        """Certified bound of the weight in use, computed anew in float64, in any of the norms.

        Args:
            norm: 1, 2 or `math.inf`.
            size: spatial sizes of the image; `None` for a bound that holds at every size. The weight in use depends on
                the size where the layer's own norm is 2; its bound in that norm is then the lesser of the target, which
                every size has, and the bound of the weight as it is learned.
        """
        self.forget()
        if size is not None:
            weight = self.weight_in_use(size).detach().double().cpu()
            return self._certificate(weight, size, norm, exact=True).bound
        # Where the scale depends on the size, it is at most 1.
        weight = (self.weight if self.norm == 2 else self.weight_in_use()).detach().double().cpu()
        if norm != 2:
            return self._certificate(weight, (), norm).bound
        geometry = self.geometry()
        # Around a torus whose size is no multiple of the stride there are no phases; its convolution has no stride.
        stride = 1 if geometry.wraps() else geometry.stride
        norm_everywhere = convolution_norm(weight, stride, geometry.dilation, self.groups)
        everywhere = outward(norm_everywhere * geometry.padding_norm())
        return min(everywhere, self.lipschitz) if self.norm == 2 else everywhere

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """Sums of |weight| over inputs and taps, and the bias; of the learned weight, which no size scales up."""
        sums = self.weight.detach().double().abs().flatten(2).sum(2).cpu()
        inputs = self.groups * sums.shape[1]
        parts = magnitudes.expand(inputs).reshape(self.groups, 1, -1)
        grouped = sums.unflatten(0, (self.groups, -1))
        # 0 times infinity is 0.
        bound = torch.where(grouped > 0, grouped * parts, 0.0).sum(2).flatten()
        return bound + (0.0 if self.bias is None else self.bias.detach().double().abs().cpu())


class LipschitzConv1d(LipschitzConvolution, nn.Conv1d):
    """`LipschitzConv2d` with one spatial axis.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: taps.
        lipschitz: c, positive.
        norm: 1, 2 or `math.inf`, of input and output.
        options: `stride`, `padding`, `dilation`, `groups`, `bias` and `padding_mode`, as torch has them.

    Shapes:
        (B, C, L) -> (B, C', L').
    """


class LipschitzConv2d(LipschitzConvolution, nn.Conv2d):
    """y = K min(1, c/|K|) * x + b, whose Lipschitz constant is certified to be at most c at the image's size.

    For the 2-norm |K| is the largest singular value of the kernel's transfer function over the finitely many
    frequencies of the least torus in which the padded image's convolution lies (see
    `invertible.blocks.lipschitz.torus.torus_of`), strides and dilations included: exact for circular padding; with zero
    padding above the norm of the dense matrix by 0.5 to 3 % in the median for kernels of 3 on images of 8 x 8 and
    16 x 16, by up to 16 % for random kernels of 5 on 8 x 8 (`benchmarks/lipschitz_certificates.py`). It is found to
    0.1 %, and one Cholesky factorisation for every frequency proves that it is not larger. For norms 1 and infinity it
    is a sum of absolute values.

    Scale, gradient and what is kept as in `LipschitzLinear`; the scale depends on K and on the image's size.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: of one axis or of both.
        lipschitz: c, positive.
        norm: 1, 2 or `math.inf`, of input and output.
        options: `stride`, `padding`, `dilation`, `groups`, `bias` and `padding_mode`, as torch has them.

    Shapes:
        (B, C, H, W) -> (B, C', H', W').

    Cost: for a new K or size (H + 1)(W + 1)/2 Cholesky factorisations of the smaller number of channels, at most some
    2000 (a coarser grid and a factor of 1.005 serve for large images); otherwise a comparison of K with a copy.

    Numerics: c holds for the numbers in use, rounding to their dtype included, under autocast too. The factorisations
    are taken in single precision where that widens the bound by no more than 0.2 %.

    Raises:
        ConfigError: if `lipschitz` is not positive or `norm` is another one.
        DomainError: by `forward`, if an entry of K is not finite.

    References:
        Sedghi, Gupta & Long, The singular values of convolutional layers, ICLR 2019, for the torus of the image's size.

    Example:
        >>> layer = LipschitzConv2d(12, 64, 3, padding=1, lipschitz=0.97)
        >>> y = layer(torch.randn(16, 12, 8, 8))
    """


class LipschitzConv3d(LipschitzConvolution, nn.Conv3d):
    """`LipschitzConv2d` with three spatial axes.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: of one axis or of all three.
        lipschitz: c, positive.
        norm: 1, 2 or `math.inf`, of input and output.
        options: `stride`, `padding`, `dilation`, `groups`, `bias` and `padding_mode`, as torch has them.

    Shapes:
        (B, C, D, H, W) -> (B, C', D', H', W').
    """
