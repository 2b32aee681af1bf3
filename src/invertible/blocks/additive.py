"""The additive coupling block of NICE."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from invertible.ball import like, norms_of
from invertible.bijection import Domain, LipschitzBounds
from invertible.blocks.coupling import Coupling
from invertible.blocks.nets import NetFactory
from invertible.norms import shear_norm
from invertible.rounding import round_to_grid


@dataclass(frozen=True)
class AdditiveMap:
    """y = x + t: volume preserving."""

    count = 1
    saves = False

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, None]:
        """y = x + t."""
        return x + parameters.to(x.dtype), None

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, None]:
        """x = y - t."""
        return y - parameters.to(y.dtype), None

    def on_grid(self, bits: int) -> "GridAdditiveMap":
        """The map with t rounded to multiples of 2^-bits."""
        return GridAdditiveMap(bits)

    def bounds(self, lipschitz: float, offset: Domain, domain: Domain | None) -> LipschitzBounds:
        """(tau + sqrt(tau^2 + 4))/2 both ways for tau = Lip(t): the largest singular value of [[1, 0], [tau, 1]]."""
        bound = shear_norm(1.0, lipschitz)
        return LipschitzBounds(bound, bound)

    def image(self, offset: Domain, domain: Domain) -> Domain:
        """The box widened by |t|."""
        (x_norm, y_norm), (at_x, at_y) = norms_of(domain), norms_of(offset)
        return like(domain, domain.y + offset.y, domain.x + offset.x, y_norm + at_y, x_norm + at_x)


@dataclass(frozen=True)
class GridAdditiveMap:
    """y = x + round(t) on multiples of 2^-bits, in float64: its inverse is exact.

    Attributes:
        bits: binary digits behind the point.
    """

    bits: int
    saves = False

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, None]:
        """y = x + round(t)."""
        return x + round_to_grid(parameters, self.bits), None

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, None]:
        """x = y - round(t)."""
        return y - round_to_grid(parameters, self.bits), None

    def on_grid(self, bits: int) -> "GridAdditiveMap":
        """The map on another grid."""
        return GridAdditiveMap(bits)


class AdditiveCoupling(Coupling):
    """Additive coupling: y_1 = x_1, y_2 = x_2 + t(x_1, c) (NICE, Dinh et al. 2015, equation 10).

    Inverse: x_2 = y_2 - t(y_1, c). log_det = 0: volume preserving.

    Args:
        features: size of axis 1: features of vectors, channels of images.
        net: factory (in_features, out_features) -> Module of t; by default `mlp(hidden)` or `convnet(hidden)`.
        hidden: widths of the default conditioner.
        mask: `"half"`, `"channel"`, `"alternating"`, `"checkerboard"` (images), or a boolean tensor (features,) that
            is True where x stays as it is.
        flip: transform the first part and leave the second.
        spatial_dims: 0 for vectors (B, D), 2 for images (B, C, H, W).
        condition_features: width of the condition, (B, F) or (B, F, height, width); 0 for none.
        conditioner_bound: b, the conditioner sees b tanh(x_1/b) in place of x_1, x_1 itself if it is `math.inf`; see
            `Coupling`.

    Shapes:
        x, y: (B, features, *spatial); log_det: (B,).

    Cost: one evaluation of t forward, inverse and in reconstruction.

    Numerics: Lip(f) = Lip(f^-1) = (tau + sqrt(tau^2 + 4))/2 with tau = Lip(t), on the whole space; errors of a round
    trip are those of one addition.

    Raises:
        ConfigError: at construction, naming the argument.
        ShapeError: on an input or a condition of the wrong shape, dtype or device.

    Example:
        >>> block = AdditiveCoupling(64, hidden=(128, 128))
        >>> y, log_det = block(x)
    """

    volume_preserving = True

    def __init__(
        self,
        features: int,
        net: NetFactory | None = None,
        *,
        hidden: Sequence[int] = (64, 64),
        mask: str | Tensor = "half",
        flip: bool = False,
        spatial_dims: int = 0,
        condition_features: int = 0,
        conditioner_bound: float = math.inf,
    ) -> None:
        super().__init__(
            AdditiveMap(),
            features,
            net=net,
            hidden=hidden,
            mask=mask,
            flip=flip,
            spatial_dims=spatial_dims,
            condition_features=condition_features,
            conditioner_bound=conditioner_bound,
        )
