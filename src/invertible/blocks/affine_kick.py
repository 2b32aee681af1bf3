"""The elementwise map of a reversible solver's steps: a constant factor and an offset."""

import math
from dataclasses import dataclass

from torch import Tensor

from invertible.rounding import round_to_grid
from invertible.shapes import log_det_dtype


@dataclass(frozen=True)
class AffineKick:
    """y = keep x + t, keep a constant.

    Attributes:
        keep: not 0.
    """

    keep: float
    saves = False

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """y = keep x + t."""
        kept = x if self.keep == 1 else self.keep * x
        return kept + parameters.to(x.dtype), self._log_det(x, 1)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """x = (y - t)/keep."""
        rest = y - parameters.to(y.dtype)
        return (rest if self.keep == 1 else rest / self.keep), self._log_det(y, -1)

    def on_grid(self, bits: int) -> "GridKick | None":
        """The map with t rounded to multiples of 2^-bits, where keep is 1 or -1."""
        return GridKick(self.keep, bits) if abs(self.keep) == 1 else None

    def _log_det(self, x: Tensor, sign: int) -> Tensor | None:
        if abs(self.keep) == 1:
            return None
        total = sign * math.log(abs(self.keep)) * math.prod(x.shape[1:])
        return x.new_full((len(x), 1), total, dtype=log_det_dtype(x.dtype))


@dataclass(frozen=True)
class GridKick:
    """y = keep x + round(t) on multiples of 2^-bits, in float64, for keep = 1 or -1: its inverse is exact.

    Attributes:
        keep: 1 or -1.
        bits: binary digits behind the point.
    """

    keep: float
    bits: int
    saves = False

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, None]:
        """y = keep x + round(t)."""
        return self.keep * x + round_to_grid(parameters, self.bits), None

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, None]:
        """x = (y - round(t)) keep."""
        return (y - round_to_grid(parameters, self.bits)) * self.keep, None

    def on_grid(self, bits: int) -> "GridKick":
        """The map on another grid."""
        return GridKick(self.keep, bits)
