"""What a contraction's Lipschitz constant tells of y = x + g(x): bounds and images of boxes and balls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from invertible.ball import Ball, constant_norm, like, norms_of
from invertible.bijection import Domain, LipschitzBounds
from invertible.norms import lipschitz_bound, magnitude_bound, outward, residual_norms, times


@dataclass(frozen=True)
class Constants:
    """Of g: |g(a) - g(b)|_p <= `own` |a - b|_p with `own` < 1, and `two`, an upper bound in the 2-norm.

    Attributes:
        own: L in the norm p.
        norm: p, one of 1, 2 and `math.inf`.
        two: in the 2-norm; may exceed 1 for another p.
    """

    own: float
    norm: float
    two: float

    @classmethod
    def of(cls, net: nn.Module, lipschitz: float, norm: float) -> Constants:
        """Those of a contractive net, from its weights as they are."""
        two = lipschitz_bound(net)
        return cls(lipschitz, norm, min(two, lipschitz) if norm == 2 else two)

    def bounds(self, domain: Domain | None) -> LipschitzBounds:
        """1 + L and 1/(1 - L) in the 2-norm; sqrt(D) times those of another norm where D is known and that is less."""
        forward, inverse = residual_norms(self.two)
        dimensions = domain.dimensions if isinstance(domain, Ball) else None
        if self.norm != 2 and dimensions is not None:
            # |x|_2 <= |x|_1 <= sqrt(D) |x|_2, and likewise for the largest number.
            others, root = residual_norms(self.own), outward(math.sqrt(dimensions))
            forward, inverse = (
                min(a, outward(times(root, b))) for a, b in zip((forward, inverse), others, strict=True)
            )
        return LipschitzBounds(forward, inverse)

    def image(self, net: nn.Module, domain: Domain) -> Domain:
        """|y| <= |x| + |g(x)|, and |x| <= (|y| + |g(0)|)/(1 - L); infinite for a net whose values are not bounded."""
        size, at_zero = (_largest(net, radius) for radius in (domain.x, 0.0))
        x_norm, y_norm = norms_of(domain)
        offset = constant_norm(domain, at_zero)
        forward = x_norm + min(times(self.two, x_norm) + offset, constant_norm(domain, size))
        backward, box = math.inf, math.inf
        if self.two < 1:
            backward = box = (y_norm + offset) / (1 - self.two)
        if self.norm == math.inf:
            box = min(box, (domain.y + at_zero) / (1 - self.own))
        return like(domain, box, domain.x + size, backward, forward)


def _largest(net: nn.Module, radius: float) -> float:
    """Largest |g(x)_i| for |x_i| <= radius; infinite for a conditional net, whose condition may be of any size."""
    if getattr(net, "condition_features", 0):
        return math.inf
    return float(magnitude_bound(net, torch.tensor([radius], dtype=torch.float64)).max())
