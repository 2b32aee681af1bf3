"""Scale functions g of affine couplings: their formulas, ranges and Lipschitz constants.

What divides in the inverse is g, so its lower end decides whether the inverse survives (Behrmann et al. 2021).
`log g` is always the logarithm of the very numbers that scale the data.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from invertible.errors import ConfigError, choose
from invertible.norms import outward


class Scale:
    """A positive function g of the conditioner's output r.

    Args:
        lower: infimum of g.
        upper: supremum of g.
        slope: sup |g'|, the Lipschitz constant of g.
        reciprocal_slope: sup |(1/g)'|, the Lipschitz constant of 1/g.
    """

    def __init__(self, lower: float, upper: float, slope: float, reciprocal_slope: float) -> None:
        self.lower, self.upper, self.slope, self.reciprocal_slope = lower, upper, slope, reciprocal_slope

    def __call__(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """The scale and its logarithm, elementwise, of raw's shape."""
        raise TypeError(f"{type(self).__name__}: define __call__(self, raw), returning (g, log g).")

    def within(self, radius: float) -> "Scale":
        """Range and slopes for |r| <= radius: those for all r, unless the function knows better.

        Returns:
            A scale that only tells these four numbers.
        """
        return self

    def __repr__(self) -> str:
        """Name and range."""
        return f"{type(self).__name__}({self.lower:.3g}, {self.upper:.3g})"


class Exp(Scale):
    """g(r) = e^r in (0, inf), RealNVP's: unbounded both ways, the first to lose its inverse."""

    def __init__(self) -> None:
        super().__init__(0.0, math.inf, math.inf, math.inf)

    def within(self, radius: float) -> Scale:
        """(e^-R, e^R), slopes e^R."""
        limit = outward(math.exp(radius), 2) if radius < 700 else math.inf
        return Scale(1 / limit, limit, limit, limit)

    def __call__(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """e^r and r."""
        return raw.exp(), raw


class Sigmoid(Scale):
    """g(r) = sigmoid(r + 2) in (0, 1), Glow's and the one that everybody uses: 1/g is unbounded."""

    def __init__(self) -> None:
        super().__init__(0.0, 1.0, 0.25, math.inf)

    def within(self, radius: float) -> Scale:
        """(sigmoid(2 - R), sigmoid(2 + R)); (1/g)' = -e^-(r + 2)."""
        steepest = outward(math.exp(radius - 2), 2) if radius < 700 else math.inf
        return Scale(1 / outward(1 + steepest), 1.0, 0.25, steepest)

    def __call__(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """sigmoid(r + 2) and its logarithm."""
        return torch.sigmoid(raw + 2), functional.logsigmoid(raw + 2)


class HalfSigmoid(Scale):
    """g(r) = (1 + sigmoid(r + 2))/2 in (1/2, 1), the modified affine coupling of Behrmann et al. (2021)."""

    def __init__(self) -> None:
        super().__init__(0.5, 1.0, 0.125, 0.25)

    def __call__(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """(1 + sigmoid(r + 2))/2 and its logarithm."""
        scale = torch.sigmoid(raw + 2).mul(0.5).add(0.5)
        return scale, scale.log()


class SigmoidEpsilon(Scale):
    """g(r) = sigmoid(r + 2) + e in (e, 1 + e) with e = 0.001, nflows' default: 1/g reaches 1000 in every block."""

    def __init__(self) -> None:
        # |(1/g)'| = s(1 - s)/(s + e)^2 is largest at s = e/(1 + 2e), where it is 1/(4 e (1 + e)).
        super().__init__(1e-3, 1.001, 0.25, 1 / (4 * 1e-3 * 1.001))

    def __call__(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """sigmoid(r + 2) + 0.001 and its logarithm."""
        scale = torch.sigmoid(raw + 2).add(1e-3)
        return scale, scale.log()


class TanhExp(Scale):
    """g(r) = exp(c tanh(r/c)) in (1/m, m) with c = log m: bounded both ways and symmetric, the default.

    g(0) = 1 and g'(0) = 1 whatever m is.

    Args:
        maximum: m, the largest scale, above 1.

    Raises:
        ConfigError: if `maximum` is not a finite number above 1.
    """

    def __init__(self, maximum: float = 2.0) -> None:
        if not 1 < maximum < math.inf:
            raise ConfigError(f"TanhExp: expected a finite maximum above 1, got {maximum}.")
        self.limit = math.log(maximum)
        # |g'| = exp(c t)(1 - t^2) with t = tanh(r/c) is largest where c (1 - t^2) = 2 t; 1/g is g mirrored.
        steepest = (math.sqrt(1 + self.limit**2) - 1) / self.limit
        slope = math.exp(self.limit * steepest) * (1 - steepest**2)
        super().__init__(1 / maximum, maximum, slope, slope)

    def within(self, radius: float) -> Scale:
        """exp(+-c tanh(R/c)); the slopes for all r."""
        limit = outward(math.exp(self.limit * math.tanh(radius / self.limit)), 8)
        return Scale(max(self.lower, 1 / limit), min(self.upper, limit), self.slope, self.reciprocal_slope)

    def __call__(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """exp(c tanh(r/c)) and its logarithm."""
        log_scale = torch.tanh(raw * (1 / self.limit)) * self.limit
        return log_scale.exp(), log_scale


class SoftClamp(Scale):
    """g(r) = exp(2c/pi arctan(r/c)) in (e^-c, e^c), FrEIA's soft clamp with its default c = 2.

    Args:
        limit: c, the largest logarithm of the scale, positive.

    Raises:
        ConfigError: if `limit` is not in (0, 300).
    """

    def __init__(self, limit: float = 2.0) -> None:
        if not 0 < limit < 300:
            raise ConfigError(f"SoftClamp: expected limit in (0, 300), got {limit}.")
        self.limit = limit
        # |g'| is largest at r/c = c/pi; 1/g is g mirrored.
        steepest = limit / math.pi
        slope = math.exp(2 * limit / math.pi * math.atan(steepest)) * 2 / math.pi / (1 + steepest**2)
        super().__init__(math.exp(-limit), math.exp(limit), slope, slope)

    def __call__(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """exp(2c/pi arctan(r/c)) and its logarithm."""
        log_scale = torch.atan(raw * (1 / self.limit)) * (2 * self.limit / math.pi)
        return log_scale.exp(), log_scale


class SymmetricSigmoid(Scale):
    """g(r) = 1 + (1 - e)(2 sigmoid(r) - 1) in (e, 2 - e) with e = 0.1: 1/g stays below 10."""

    def __init__(self) -> None:
        # With t = tanh(r/2), |(1/g)'| = 0.45 (1 - t^2)/(1 + 0.9 t)^2 is largest at t = -0.9, where it is 0.45/0.19.
        super().__init__(0.1, 1.9, 0.45, 0.45 / 0.19)

    def __call__(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """1 + 0.9 tanh(r/2) and its logarithm."""
        scale = torch.tanh(raw * 0.5).mul(0.9).add(1)
        return scale, scale.log()


SCALES: dict[str, Callable[[], Scale]] = {
    "exp": Exp,
    "sigmoid": Sigmoid,
    "half-sigmoid": HalfSigmoid,
    "sigmoid-epsilon": SigmoidEpsilon,
    "tanh-exp": TanhExp,
    "softclamp": SoftClamp,
    "symmetric-sigmoid": SymmetricSigmoid,
}


def scale_function(scale: str | Scale, owner: str = "scale") -> Scale:
    """A scale function by its name in `SCALES`, or the object given.

    Raises:
        ConfigError: if the name is unknown.
    """
    return scale if isinstance(scale, Scale) else choose(owner, "scale", scale, SCALES)()
