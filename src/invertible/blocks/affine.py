"""The affine coupling block of RealNVP and Glow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.ball import like, norms_of
from invertible.bijection import Domain, LipschitzBounds
from invertible.blocks.coupling import Coupling
from invertible.blocks.nets import NetFactory
from invertible.blocks.scale import Scale, scale_function
from invertible.errors import choose
from invertible.norms import outward, shear_norm, times


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

        With Lip((r, t)) <= L, |r|, |t| <= T, |x_i| <= R, |y_i| <= S, h = 1/g, and suprema over |r| <= T:
        ||[[1, 0], [M, sup g]]||_2 forward and ||[[1, 0], [M*, sup h]]||_2 back, where in RealNVP's order
        M = |(R sup|g'|, 1)| L and M* = |((S + T) sup|h'|, sup h)| L, in Glow's M = |((R + T) sup|g'|, sup g)| L and
        M* = |(S sup|h'|, 1)| L (after Behrmann et al. 2021, table 1, with the norm of [diag(a), diag(b)] in place of
        the sum of norms). On a ball R, S and T are the suprema there.
        """
        x, y = (math.inf, math.inf) if domain is None else (domain.x, domain.y)
        there, back = self.scale.within(offset.x), self.scale.within(offset.y)
        if self.order == "realnvp":
            forward = math.hypot(times(x, there.slope), 1.0)
            inverse = math.hypot(times(y + offset.y, back.reciprocal_slope), _reciprocal(back.lower))
        else:
            forward = math.hypot(times(x + offset.x, there.slope), there.upper)
            inverse = math.hypot(times(y, back.reciprocal_slope), 1.0)
        return LipschitzBounds(
            outward(shear_norm(there.upper, times(forward, lipschitz)), 2),
            outward(shear_norm(_reciprocal(back.lower), times(inverse, lipschitz)), 2),
        )

    def image(self, offset: Domain, domain: Domain) -> Domain:
        """|y| <= R sup g + T and |x| <= (S + T) sup 1/g, or the same in Glow's order; so for lengths."""
        upper, reciprocal = self.scale.within(offset.x).upper, _reciprocal(self.scale.within(offset.y).lower)
        x_box, y_box = self._reach(domain.x, offset.x, upper), self._back(domain.y, offset.y, reciprocal)
        (x_norm, y_norm), (at_x, at_y) = norms_of(domain), norms_of(offset)
        # The passive part is multiplied by 1.
        forth, back = self._reach(x_norm, at_x, max(1.0, upper)), self._back(y_norm, at_y, max(1.0, reciprocal))
        return like(domain, y_box, x_box, back, forth)

    def _reach(self, radius: float, shift: float, upper: float) -> float:
        return times(radius, upper) + shift if self.order == "realnvp" else times(radius + shift, upper)

    def _back(self, radius: float, shift: float, reciprocal: float) -> float:
        return times(radius + shift, reciprocal) if self.order == "realnvp" else times(radius, reciprocal) + shift


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
        conditioner_bound: as in `AdditiveCoupling`.

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
        conditioner_bound: float = math.inf,
    ) -> None:
        elementwise = AffineMap(scale_function(scale, "AffineCoupling"), order)
        super().__init__(
            elementwise,
            features,
            net=net,
            hidden=hidden,
            mask=mask,
            flip=flip,
            spatial_dims=spatial_dims,
            condition_features=condition_features,
            conditioner_bound=conditioner_bound,
        )


def _reciprocal(lower: float) -> float:
    return 1 / lower if lower > 0 else math.inf
