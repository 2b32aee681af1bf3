"""A learned scale for every feature."""

import math

import torch
from torch import Tensor, nn

from invertible.ball import like, norms_of
from invertible.bijection import Bijection, Domain, LipschitzBounds
from invertible.errors import require_positive
from invertible.norms import outward
from invertible.shapes import log_det_dtype


class DiagonalScaling(Bijection):
    """y_i = e^(s_i) x_i for every feature or channel i (Dinh et al. 2015, section 3.3); inverse: x_i = e^(-s_i) y_i.

    log_det = sum_i s_i, times the number of positions.

    Args:
        features: size of axis 1.

    Shapes:
        x, y: (B, features, ...), any number of spatial axes; log_det: (B,).

    Numerics: Lip(f) = max e^s, Lip(f^-1) = max e^(-s), on the whole space.

    Raises:
        ConfigError: if `features` is not positive.

    Example:
        >>> block = DiagonalScaling(64)
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        require_positive("DiagonalScaling", features=features)
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Multiply by e^s."""
        self._check(x, condition, len(self.log_scale), None, self.log_scale)
        return x * self._scale(1, x), self._log_det(1, x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Multiply by e^-s."""
        self._check(y, condition, len(self.log_scale), None, self.log_scale)
        return y * self._scale(-1, y), self._log_det(-1, y)

    def _scale(self, sign: int, like: Tensor) -> Tensor:
        scale = torch.exp(sign * self.log_scale).to(like.dtype)
        return scale.view(-1, *(1,) * (like.dim() - 2))

    def _log_det(self, sign: int, like: Tensor) -> Tensor:
        positions = math.prod(like.shape[2:])
        return (sign * positions * self.log_scale.to(log_det_dtype(like.dtype)).sum()).expand(len(like))

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """max e^s and max e^-s."""
        log_scale = self.log_scale.detach().double()
        return LipschitzBounds(outward(float(log_scale.max().exp())), outward(float((-log_scale).max().exp())))

    def image(self, domain: Domain) -> Domain:
        """The boxes times the bounds."""
        bounds, (x_norm, y_norm) = self.bounds(), norms_of(domain)
        boxes = domain.y * bounds.inverse, domain.x * bounds.forward
        return like(domain, *boxes, y_norm * bounds.inverse, x_norm * bounds.forward)

    def extra_repr(self) -> str:
        """The number of features."""
        return f"{len(self.log_scale)}"
