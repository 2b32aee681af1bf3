"""Invertible linear maps of vectors and of the channels of images."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.ball import constant_norm, like, norms_of
from invertible.bijection import Bijection, ChannelAffine, Domain, LipschitzBounds
from invertible.blocks.lifting import lifting_step
from invertible.blocks.weights import LiftingWeight, Weight, weight_of
from invertible.memory.step import Step
from invertible.norms import times
from invertible.shapes import full_precision, log_det_dtype


class InvertibleLinear(Bijection):
    """y = W x + b on vectors; inverse: x = W^-1 (y - b). log_det = log|det W|.

    Args:
        features: D.
        parametrization: `"plu"` (Kingma & Dhariwal 2018), `"orthogonal"` (Householder reflections), `"free"`, or
            `"lifting"`: shears of determinant 1, the one form that `memory="exact"` takes.
        reflections: number of Householder reflections of `"orthogonal"`; D if `None`.
        bias: add a learned b.

    Shapes:
        x, y: (B, D); log_det: (B,).

    Cost: one D x D product a sample; the inverse matrix is computed once a call, by triangular solves (`"plu"`), by
    LU (`"free"`), as the transpose (`"orthogonal"`), or by undoing the shears (`"lifting"`).

    Numerics: the inverse loses log2 of W's condition number in bits: none for `"orthogonal"`; nothing bounds it for
    the others, so read `bounds`. All start orthogonal. In a chain of `memory="exact"` the inverse of `"lifting"` loses
    no bit, whatever W is: see `LiftingStep`.

    Raises:
        ConfigError: if `parametrization` is unknown or a number not positive.

    Example:
        >>> block = InvertibleLinear(64, "orthogonal", reflections=8)
    """

    def __init__(
        self, features: int, parametrization: str = "plu", *, reflections: int | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        self.spatial_dims = 0
        self.weight = weight_of("InvertibleLinear", features, parametrization, reflections)
        self.volume_preserving = self.weight.volume_preserving
        self.features = features
        self.bias = nn.Parameter(torch.zeros(features)) if bias else None

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """W x + b."""
        self._check(x, condition, self.features, 0, self.weight.reference)
        with full_precision(x):
            weight, log_abs_det = self.weight()
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return functional.linear(x, weight.to(x.dtype), bias), _expand(log_abs_det, x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """W^-1 (y - b)."""
        self._check(y, condition, self.features, 0, self.weight.reference)
        with full_precision(y):
            inverse, log_abs_det = self.weight.inverse()
            shifted = y if self.bias is None else y - self.bias.to(y.dtype)
            return functional.linear(shifted, inverse.to(y.dtype)), _expand(log_abs_det, y)

    @property
    def is_channel_affine(self) -> bool:
        """Always."""
        return True

    def channel_affine(self) -> ChannelAffine:
        """W and b."""
        weight, log_abs_det = self.weight()
        return ChannelAffine(weight, weight.new_zeros(self.features) if self.bias is None else self.bias, log_abs_det)

    def inverse_channel_affine(self) -> ChannelAffine:
        """W^-1 and -W^-1 b."""
        inverse, log_abs_det = self.weight.inverse()
        bias = inverse.new_zeros(self.features) if self.bias is None else -(inverse @ self.bias)
        return ChannelAffine(inverse, bias, log_abs_det)

    def steps(self) -> list[Step]:
        """One, which has an exact form for `"lifting"`."""
        if isinstance(self.weight, LiftingWeight):
            return [lifting_step(self, self.weight, self.bias)]
        return super().steps()

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """||W||_2 and ||W^-1||_2."""
        return self.weight.bounds()

    def image(self, domain: Domain) -> Domain:
        """The boxes times the largest sums of |W_ij| and |W^-1_ij| along a row, lengths times the norms; the bias."""
        bias = 0.0 if self.bias is None else float(self.bias.detach().abs().max())
        return _image(domain, self.weight, bias)


class InvertibleConv1x1(Bijection):
    """Invertible 1 x 1 convolution: y = W x at every pixel; inverse: x = W^-1 y (Kingma & Dhariwal 2018, section 3.2).

    log_det = H W log|det W|.

    Args:
        channels: C.
        parametrization: `"plu"`, `"orthogonal"`, `"free"` or `"lifting"`, as in `InvertibleLinear`.
        reflections: number of Householder reflections of `"orthogonal"`; C if `None`.

    Shapes:
        x, y: (B, C, H, W); log_det: (B,).

    Cost: one 1 x 1 convolution; the inverse matrix is computed once a call.

    Numerics: as `InvertibleLinear`.

    Raises:
        ConfigError: if `parametrization` is unknown or a number not positive.

    Example:
        >>> block = InvertibleConv1x1(12)
    """

    def __init__(self, channels: int, parametrization: str = "plu", *, reflections: int | None = None) -> None:
        super().__init__()
        self.spatial_dims = 2
        self.weight = weight_of("InvertibleConv1x1", channels, parametrization, reflections)
        self.volume_preserving = self.weight.volume_preserving
        self.channels = channels

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """W x at every pixel."""
        self._check(x, condition, self.channels, 2, self.weight.reference)
        with full_precision(x):
            weight, log_abs_det = self.weight()
            return functional.conv2d(x, weight.to(x.dtype)[..., None, None]), _expand(log_abs_det, x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """W^-1 y at every pixel."""
        self._check(y, condition, self.channels, 2, self.weight.reference)
        with full_precision(y):
            inverse, log_abs_det = self.weight.inverse()
            return functional.conv2d(y, inverse.to(y.dtype)[..., None, None]), _expand(log_abs_det, y)

    @property
    def is_channel_affine(self) -> bool:
        """Always."""
        return True

    def channel_affine(self) -> ChannelAffine:
        """W, without bias."""
        weight, log_abs_det = self.weight()
        return ChannelAffine(weight, weight.new_zeros(self.channels), log_abs_det)

    def inverse_channel_affine(self) -> ChannelAffine:
        """W^-1, without bias."""
        inverse, log_abs_det = self.weight.inverse()
        return ChannelAffine(inverse, inverse.new_zeros(self.channels), log_abs_det)

    def steps(self) -> list[Step]:
        """One, which has an exact form for `"lifting"`."""
        if isinstance(self.weight, LiftingWeight):
            return [lifting_step(self, self.weight, None)]
        return super().steps()

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """||W||_2 and ||W^-1||_2."""
        return self.weight.bounds()

    def image(self, domain: Domain) -> Domain:
        """The boxes times the largest sums of |W_ij| and |W^-1_ij| along a row, lengths times the norms."""
        return _image(domain, self.weight, 0.0)


def _image(domain: Domain, weight: Weight, bias: float) -> Domain:
    bounds, sums = weight.bounds(), weight.row_sums()
    (x_norm, y_norm), length = norms_of(domain), constant_norm(domain, bias)
    x_norm, y_norm = times(y_norm + length, bounds.inverse), times(x_norm, bounds.forward) + length
    return like(domain, times(domain.y + bias, sums.inverse), times(domain.x, sums.forward) + bias, x_norm, y_norm)


def _expand(log_abs_det: Tensor, x: Tensor) -> Tensor:
    positions = math.prod(x.shape[2:])
    return (log_abs_det.to(log_det_dtype(x.dtype)) * positions).expand(len(x))
