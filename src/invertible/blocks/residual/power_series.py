"""The truncated power series with Hutchinson's trace estimator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.blocks.residual.log_det import LogDet
from invertible.blocks.residual.map import ResidualMap
from invertible.blocks.residual.probes import check_probe, draw
from invertible.blocks.residual.series import weighted_series
from invertible.errors import ConfigError, require_positive


@dataclass(frozen=True)
class PowerSeries(LogDet):
    """sum_(k <= n) (-1)^(k+1)/k v^T J^k v, v random: i-ResNet's biased estimate (Behrmann et al. 2019, equation 4).

    The expectation misses log|det(I + J)| by D L^(n+1)/((n+1) (1 - L)) at most, which `truncation` tells and no number
    of probes mends: not for training by maximum likelihood with L near 1, where the model learns to exploit it (Chen et
    al. 2019, figure 2); `RussianRoulette` is recommended.

    Cost: n products with J^T, and one more with a graph.

    Args:
        terms: n.
        probes: number of v a sample, of which the mean is taken; copies of the batch, so that memory grows alike.
        probe: `"rademacher"` (signs, of least variance) or `"gaussian"`.

    Raises:
        ConfigError: if a number is not positive or `probe` unknown.
    """

    terms: int = 10
    probes: int = 1
    probe: str = "rademacher"

    def __post_init__(self) -> None:
        require_positive("PowerSeries", terms=self.terms, probes=self.probes)
        check_probe("PowerSeries", self.probe)

    def estimate(self, g: ResidualMap, x: Tensor, *, gradient: str = "neumann") -> tuple[Tensor, Tensor]:
        """g(x) and the estimate, by probes from the global generator."""
        return hutchinson(g, x, [1.0] * self.terms, self.probes, self.probe, gradient)

    def truncation(self, lipschitz: float, dimensions: int) -> float:
        """D L^(n+1)/((n+1) (1 - L))."""
        return truncation_error(lipschitz, dimensions, self.terms)


def truncation_error(lipschitz: float, dimensions: int, terms: int) -> float:
    """D L^(n+1)/((n+1) (1 - L)): what the terms behind n sum up to at most, for |tr J^k| <= D L^k.

    Args:
        lipschitz: L, an upper bound of |J| in a norm of matrices.
        dimensions: D.
        terms: n.

    Raises:
        ConfigError: if L is not in [0, 1).
    """
    if not 0 <= lipschitz < 1:
        raise ConfigError(f"truncation_error: expected lipschitz in [0, 1), got {lipschitz}.")
    return dimensions * lipschitz ** (terms + 1) / ((terms + 1) * (1 - lipschitz)) if lipschitz else 0.0


def terms_needed(lipschitz: float, dimensions: int, tolerance: float) -> int:
    """The least n whose truncation error is at most `tolerance`, in nats."""
    terms = 1
    while truncation_error(lipschitz, dimensions, terms) > tolerance:
        terms *= 2
    low, high = terms // 2, terms
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if truncation_error(lipschitz, dimensions, middle) > tolerance else (low, middle)
    return max(1, math.ceil(high))


def hutchinson(
    g: ResidualMap, x: Tensor, weights: list[float], probes: int, probe: str, gradient: str
) -> tuple[Tensor, Tensor]:
    """g(x), and the mean of the weighted series over random probes."""
    with torch.no_grad():
        v = draw(probe, x, probes)
    return weighted_series(g, x, v, weights, gradient)
