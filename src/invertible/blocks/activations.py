"""Invertible functions of single numbers."""

import math
from typing import NoReturn

import torch
from torch import Tensor
from torch.nn import functional

from invertible.ball import like, norms_of
from invertible.bijection import Bijection, Domain, LipschitzBounds
from invertible.errors import ConfigError, DomainError
from invertible.norms import outward, times
from invertible.shapes import per_sample_sum


class LeakyReLU(Bijection):
    """y = x for x >= 0, a x below; inverse: y/a below 0. log_det = log a times the count of negative numbers.

    Args:
        slope: a, positive.

    Shapes:
        x, y: (B, ...); log_det: (B,).

    Numerics: Lip(f) = max(1, a), Lip(f^-1) = max(1, 1/a), on the whole space. log_det jumps where a number changes its
    sign.

    Raises:
        ConfigError: if `slope` is not a positive finite number.

    Example:
        >>> block = LeakyReLU(0.5)
    """

    def __init__(self, slope: float = 0.1) -> None:
        super().__init__()
        if not 0 < slope < math.inf:
            raise ConfigError(f"LeakyReLU: expected a positive finite slope, got {slope}.")
        self.slope = float(slope)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Negative numbers times a."""
        self._check(x, condition)
        return torch.where(x < 0, x * self.slope, x), self._log_det(x, 1)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Negative numbers over a."""
        self._check(y, condition)
        return torch.where(y < 0, y / self.slope, y), self._log_det(y, -1)

    def _log_det(self, value: Tensor, sign: int) -> Tensor:
        return per_sample_sum(torch.where(value < 0, sign * math.log(self.slope), torch.zeros_like(value)))

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """max(1, a) and max(1, 1/a)."""
        return LipschitzBounds(max(1.0, self.slope), outward(max(1.0, 1 / self.slope)))

    def image(self, domain: Domain) -> Domain:
        """The boxes, and lengths, times the bounds."""
        bounds, (x_norm, y_norm) = self.bounds(), norms_of(domain)
        boxes = domain.y * bounds.inverse, domain.x * bounds.forward
        return like(domain, *boxes, y_norm * bounds.inverse, x_norm * bounds.forward)

    def extra_repr(self) -> str:
        """The slope."""
        return f"{self.slope}"


class Tanh(Bijection):
    """y = tanh x, onto (-1, 1); inverse: artanh y. log_det = sum log(1 - tanh^2 x).

    Shapes:
        x, y: (B, ...); log_det: (B,).

    Numerics: Lip(f) = 1. The inverse's slope 1/(1 - y^2) has no bound; on |y| <= S it is 1/(1 - S^2). Beyond |x| = 9 in
    float32, 19 in float64, y rounds to 1 and x is lost.

    Raises:
        DomainError: in `inverse`, if a number is not inside (-1, 1).

    Example:
        >>> block = Tanh()
    """

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tanh x."""
        self._check(x, condition)
        # log(1 - tanh^2 x) = 2 (log 2 - |x| - log(1 + e^(-2|x|))), which loses nothing for large x.
        size = x.abs()
        return torch.tanh(x), per_sample_sum(2 * (math.log(2) - size - torch.log1p(torch.exp(-2 * size))))

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Artanh y."""
        self._check(y, condition)
        if not torch.compiler.is_compiling() and not bool((y.abs() < 1).all()):
            _refuse("Tanh", "(-1, 1)", y)
        above, below = torch.log1p(y), torch.log1p(-y)
        return (above - below) / 2, per_sample_sum(-above - below)

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """1, and on |y| <= S < 1 1/(1 - S^2)."""
        radius = math.inf if domain is None else domain.y
        return LipschitzBounds(1.0, outward(1 / (1 - radius) / (1 + radius), 2) if radius < 1 else math.inf)

    def image(self, domain: Domain) -> Domain:
        """tanh R and artanh S; lengths times the bounds."""
        back = math.atanh(domain.y) if domain.y < 1 else math.inf
        x_norm, y_norm = norms_of(domain)
        slope = self.bounds(domain).inverse
        return like(domain, outward(back, 4), math.tanh(domain.x), times(y_norm, slope), x_norm)


class Sigmoid(Bijection):
    """y = 1/(1 + e^-x), onto (0, 1); inverse: logit y. log_det = sum log y (1 - y).

    `Logit` with alpha = 0 the other way round.

    Shapes:
        x, y: (B, ...); log_det: (B,).

    Numerics: Lip(f) = 1/4; the inverse's slope has no bound. Beyond x = 17 in float32, 37 in float64, y rounds to 1 and
    x is lost; numbers near 0 keep their digits.

    Raises:
        DomainError: in `inverse`, if a number is not inside (0, 1).

    Example:
        >>> block = Sigmoid()
    """

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """1/(1 + e^-x)."""
        self._check(x, condition)
        return torch.sigmoid(x), per_sample_sum(functional.logsigmoid(x) + functional.logsigmoid(-x))

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logit y."""
        self._check(y, condition)
        if not torch.compiler.is_compiling() and not bool(((y > 0) & (y < 1)).all()):
            _refuse("Sigmoid", "(0, 1)", y)
        above, below = y.log(), torch.log1p(-y)
        return above - below, per_sample_sum(-above - below)

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """1/4, and none."""
        return LipschitzBounds(0.25, math.inf)

    def image(self, domain: Domain) -> Domain:
        """sigmoid(R); back everywhere."""
        return like(domain, math.inf, 1 / (1 + math.exp(-domain.x)))


class Softplus(Bijection):
    """y = log(1 + e^x), onto the positive numbers; inverse: log(e^y - 1). log_det = sum log sigmoid(x).

    Shapes:
        x, y: (B, ...); log_det: (B,).

    Numerics: Lip(f) = 1; the inverse's slope 1/(1 - e^-y) has no bound near 0, where y keeps its digits and so
    x, too.

    Raises:
        DomainError: in `inverse`, if a number is not positive.

    Example:
        >>> block = Softplus()
    """

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log(1 + e^x)."""
        self._check(x, condition)
        return torch.logaddexp(x, torch.zeros_like(x)), per_sample_sum(functional.logsigmoid(x))

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log(e^y - 1)."""
        self._check(y, condition)
        if not torch.compiler.is_compiling() and not bool((y > 0).all()):
            _refuse("Softplus", "(0, inf)", y)
        log_slope = torch.log(-torch.expm1(-y))
        return y + log_slope, per_sample_sum(-log_slope)

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """1, and none."""
        return LipschitzBounds(1.0, math.inf)

    def image(self, domain: Domain) -> Domain:
        """log(1 + e^R); back everywhere."""
        return like(domain, math.inf, domain.x + math.log1p(math.exp(-domain.x)))


def _refuse(owner: str, interval: str, y: Tensor) -> NoReturn:
    raise DomainError(
        f"{owner}: expected y in {interval} to invert, got values in [{y.min().item():.4g}, {y.max().item():.4g}]. "
        "Numbers that the layer itself rounded to the end of the interval are lost; use float64 or bounded inputs."
    )
