"""The power series of evaluation: the same every time, and truncated where the rest is certified to be small."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.blocks.residual.log_det import LogDet
from invertible.blocks.residual.map import Linearisation, ResidualMap, linearise
from invertible.blocks.residual.power_series import terms_needed
from invertible.blocks.residual.probes import check_probe, fixed
from invertible.blocks.residual.series import dot, weighted_series
from invertible.errors import ConfigError, require_positive
from invertible.shapes import at_least_float32


@dataclass(frozen=True)
class CertifiedSeries(LogDet):
    """(1/P) sum_p sum_(k <= n) (-1)^(k+1)/k v_p^T J^k v_p, with v_p fixed by a seed and n decided for every sample.

    Deterministic: for evaluation. A sample's series ends where what is left of it is certified to be at most
    `tolerance`: |v^T J^k v| <= |v| |(J^T)^n v| L^(k-n) for k > n, in 2-norms, or |v|_p and the dual norm of the other
    where L holds in the p-norm. The probes are the same for all samples. What remains is Hutchinson's deviation, which
    falls as 1/sqrt(P) and averages out over samples only in part; for D up to some hundred, `ExactLogDet` has none.

    Cost: P times n products with J^T, n about 10 to 30 for a trained network. With grad mode on n is `terms_needed`,
    for gradients are those of a fixed number of terms.

    Args:
        tolerance: of the truncation, in nats.
        probes: P.
        seed: of the probes.
        probe: `"rademacher"` or `"gaussian"`.

    Raises:
        ConfigError: if an argument is out of its range.
    """

    tolerance: float = 1e-3
    probes: int = 8
    seed: int = 0
    probe: str = "rademacher"

    def __post_init__(self) -> None:
        require_positive("CertifiedSeries", probes=self.probes)
        check_probe("CertifiedSeries", self.probe)
        if not 0 < self.tolerance < math.inf:
            raise ConfigError(f"CertifiedSeries: expected a positive tolerance, got {self.tolerance}.")

    def estimate(self, g: ResidualMap, x: Tensor, *, gradient: str = "neumann") -> tuple[Tensor, Tensor]:
        """g(x) and the series."""
        probes = fixed(self.probe, x, self.probes, self.seed).unsqueeze(1).expand(-1, *x.shape)
        if torch.is_grad_enabled():
            terms = terms_needed(g.lipschitz, math.prod(x.shape[1:]), self.tolerance)
            return weighted_series(g, x, probes, [1.0] * terms, gradient)
        # One by one, in the memory of one.
        at = linearise(g, x, probes[:1])
        return at.value, torch.stack([self._series(g, at, v[None]) for v in probes]).mean(0)

    def truncation(self, lipschitz: float, dimensions: int) -> float:
        """`tolerance`."""
        return self.tolerance

    def _series(self, g: ResidualMap, at: Linearisation, v: Tensor) -> Tensor:
        """The series of one probe, each sample's up to its own n."""
        length, dual = _length(v, g.norm), _dual(g.norm)
        value, u = torch.zeros_like(length), v
        going = torch.ones_like(value, dtype=torch.bool)
        for k in range(1, terms_needed(g.lipschitz, math.prod(v.shape[2:]), self.tolerance) + 1):
            u = at.pull(u)
            value = value + torch.where(going, dot(u, v)[0] * ((-1.0) ** (k + 1) / k), 0.0)
            rest = length * _length(u, dual) * (g.lipschitz / ((k + 1) * (1 - g.lipschitz)))
            # Not a number keeps going: it has to show.
            going = going & ~(rest <= self.tolerance)
            if not bool(going.any()):
                break
        return value


def _dual(norm: float) -> float:
    return {1: math.inf, math.inf: 1}.get(norm, 2)


def _length(x: Tensor, norm: float) -> Tensor:
    """Of (1, B, ...), per sample."""
    return torch.linalg.vector_norm(at_least_float32(x[0]).flatten(1), norm, 1)
