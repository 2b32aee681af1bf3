"""The affine coupling block of RealNVP and Glow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.bijection import Domain, LipschitzBounds
from invertible.blocks.coupling import Coupling
from invertible.blocks.elementwise import shear_norm, times
from invertible.blocks.nets import NetFactory
from invertible.blocks.scale import Scale, scale_function
from invertible.errors import choose


@dataclass(frozen=True)
class AffineMap:
    """y = x g(r) + t (RealNVP's order) or y = (x + t) g(r) (Glow's), parameters (r, t).

    Attributes:
        scale: the function g.
        order: `"realnvp"` or `"glow"`.
    """

    scale: Scale
    order: str
    count = 2
    saves = True

    def __post_init__(self) -> None:
        choose("AffineCoupling", "order", self.order, {"realnvp": 0, "glow": 0})

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """y and log g."""
        raw, shift = parameters.to(x.dtype).chunk(2, 1)
        scale, log_scale = self.scale(raw)
        y = torch.addcmul(shift, x, scale) if self.order == "realnvp" else (x + shift) * scale
        return y, log_scale

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """x and -log g."""
        raw, shift = parameters.to(y.dtype).chunk(2, 1)
        scale, log_scale = self.scale(raw)
        x = (y - shift) / scale if self.order == "realnvp" else y / scale - shift
        return x, -log_scale

    def on_grid(self, bits: int) -> None:
        """None: the map scales, and scaling rounds."""

    def bounds(self, lipschitz: float, offset: Domain, domain: Domain | None) -> LipschitzBounds:
        """Finite on a domain only: the Jacobian holds x_2 g'(r) dr/dx_1, which grows with x_2.

        With Lip(r), Lip(t) <= L, |t| <= T, |x_i| <= R, |y_i| <= S, h = 1/g: ||[[1, 0], [M, sup g]]||_2 forward and
        ||[[1, 0], [M*, sup h]]||_2 back, where in RealNVP's order M = R sup|g'| L + L and
        M* = (S + T) sup|h'| L + sup h L, in Glow's M = (R + T) sup|g'| L + sup g L and M* = S sup|h'| L + L
        (after Behrmann et al. 2021, table 1).
        """
        scale, reciprocal = self.scale, _reciprocal(self.scale.lower)
        x, y = (math.inf, math.inf) if domain is None else (domain.x, domain.y)
        if self.order == "realnvp":
            forward = times(times(x, scale.slope), lipschitz) + lipschitz
            inverse = times(times(y + offset.y, scale.reciprocal_slope), lipschitz) + times(reciprocal, lipschitz)
        else:
            forward = times(times(x + offset.x, scale.slope), lipschitz) + times(scale.upper, lipschitz)
            inverse = times(times(y, scale.reciprocal_slope), lipschitz) + lipschitz
        return LipschitzBounds(shear_norm(scale.upper, forward), shear_norm(reciprocal, inverse))

    def image(self, offset: Domain, domain: Domain) -> Domain:
        """|y| <= R sup g + T and |x| <= (S + T) sup 1/g, or the same in Glow's order."""
        upper, reciprocal = self.scale.upper, _reciprocal(self.scale.lower)
        if self.order == "realnvp":
            return Domain(x=times(domain.y + offset.y, reciprocal), y=times(domain.x, upper) + offset.x)
        return Domain(x=times(domain.y, reciprocal) + offset.y, y=times(domain.x + offset.x, upper))


class AffineCoupling(Coupling):
    """Affine coupling: y_2 = x_2 g(r) + t (RealNVP) or y_2 = (x_2 + t) g(r) (Glow), (r, t) = net(x_1, c), y_1 = x_1.

    Inverse: x_2 = (y_2 - t)/g(r), or y_2/g(r) - t. log_det = sum log g(r), of the very numbers that scale.
    (Dinh et al. 2017, equations 4, 7 and 8; Kingma & Dhariwal 2018, table 1.)

    Args:
        features: size of axis 1: features of vectors, channels of images.
        net: factory (in_features, out_features) -> Module of (r, t).
        hidden: widths of the default conditioner.
        scale: g by name (`"exp"`, `"sigmoid"`, `"half-sigmoid"`, `"sigmoid-epsilon"`, `"tanh-exp"`, `"softclamp"`,
            `"symmetric-sigmoid"`) or a `Scale`; the default is bounded both ways, in (1/2, 2).
        order: `"realnvp"` (scale, then shift) or `"glow"` (shift, then scale).
        mask: as in `AdditiveCoupling`.
        flip: as in `AdditiveCoupling`.
        spatial_dims: 0 for vectors, 2 for images.
        condition_features: width of the condition, 0 for none.

    Shapes:
        x, y: (B, features, *spatial); log_det: (B,).

    Cost: one evaluation of the conditioner forward, inverse and in reconstruction.

    Numerics: the inverse divides by g, so it loses log2(1/inf g) bits a block; a g that reaches zero (`"exp"`,
    `"sigmoid"`) can lose all of them. Even with a bounded g, Lip(f) grows with |x_2|: `bounds` is finite on a
    domain only.

    Raises:
        ConfigError: at construction, naming the argument.
        ShapeError: on an input or a condition of the wrong shape, dtype or device.

    Example:
        >>> block = AffineCoupling(12, scale="half-sigmoid", order="glow", spatial_dims=2)
    """

    def __init__(
        self,
        features: int,
        net: NetFactory | None = None,
        *,
        hidden: Sequence[int] = (64, 64),
        scale: str | Scale = "tanh-exp",
        order: str = "realnvp",
        mask: str | Tensor = "half",
        flip: bool = False,
        spatial_dims: int = 0,
        condition_features: int = 0,
    ) -> None:
        elementwise = AffineMap(scale_function(scale, "AffineCoupling"), order)
        super().__init__(elementwise, features, net, hidden, mask, flip, spatial_dims, condition_features)


def _reciprocal(lower: float) -> float:
    return 1 / lower if lower > 0 else math.inf
