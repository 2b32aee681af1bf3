"""The logit layer, from the unit cube to the whole space."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from invertible.bijection import Bijection, Domain, LipschitzBounds
from invertible.errors import ConfigError, DomainError
from invertible.norms import outward
from invertible.shapes import per_sample_sum


class Logit(Bijection):
    """y = logit(p), p = alpha + (1 - 2 alpha) x for x in [0, 1] (Dinh et al. 2017, section 4.1).

    Inverse: x = (sigmoid(y) - alpha)/(1 - 2 alpha). log_det = sum log(1 - 2 alpha) - log p - log q, with
    q = 1 - p = alpha + (1 - 2 alpha)(1 - x).

    Args:
        alpha: margin in [0, 1/2); with 0 the ends 0 and 1 are outside the domain.

    Shapes:
        x, y: (B, ...); log_det: (B,).

    Numerics: on [0, 1] Lip(f) = (1 - 2 alpha)/(alpha (1 - alpha)); everywhere Lip(f^-1) = 1/(4 (1 - 2 alpha)). The
    inverse flattens out: for |y| beyond about 15 in float32 sigmoid(y) rounds to 0 or 1 and y is lost.

    Raises:
        ConfigError: if `alpha` is not in [0, 1/2).
        DomainError: if a p is not inside (0, 1), in x outside [-alpha/(1 - 2 alpha), 1 + alpha/(1 - 2 alpha)].

    Example:
        >>> block = Logit(alpha=0.05)
    """

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ConfigError(f"Logit: expected alpha in [0, 0.5), got {alpha}.")
        self.alpha = float(alpha)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """logit(alpha + (1 - 2 alpha) x)."""
        self._check(x, condition)
        # 1 - x is exact near 1, where 1 - p would have lost the digits of x: log q is as accurate as log p.
        p, q = (self.alpha + (1 - 2 * self.alpha) * side for side in (x, 1 - x))
        if not torch.compiler.is_compiling() and p.numel() and not bool(((p > 0) & (q > 0)).all()):
            margin = self.alpha / (1 - 2 * self.alpha)
            raise DomainError(
                f"Logit: expected x in ({-margin:.4g}, {1 + margin:.4g}), got values in "
                f"[{x.min().item():.4g}, {x.max().item():.4g}]. Scale the data to [0, 1]."
            )
        log_p, log_q = p.log(), q.log()
        return log_p - log_q, per_sample_sum(math.log1p(-2 * self.alpha) - log_p - log_q)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(sigmoid(y) - alpha)/(1 - 2 alpha)."""
        self._check(y, condition)
        slope = functional.logsigmoid(y) + functional.logsigmoid(-y) - math.log1p(-2 * self.alpha)
        return (torch.sigmoid(y) - self.alpha) / (1 - 2 * self.alpha), per_sample_sum(slope)

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """Forward on x in [0, 1], the layer's domain: infinite for alpha = 0."""
        span = 1 - 2 * self.alpha
        forward = math.inf if self.alpha == 0 else span / (self.alpha * (1 - self.alpha))
        if domain is not None and domain.x > 1:
            forward = math.inf
        return LipschitzBounds(outward(forward), outward(1 / (4 * span)))

    def image(self, domain: Domain) -> Domain:
        """Of [0, 1] the interval +-logit(1 - alpha), and back to the open domain."""
        span = 1 - 2 * self.alpha
        inside = domain.x <= 1 and self.alpha > 0
        return Domain(x=(1 - self.alpha) / span, y=math.log((1 - self.alpha) / self.alpha) if inside else math.inf)

    def extra_repr(self) -> str:
        """alpha."""
        return f"alpha={self.alpha}"
