"""The unbiased estimate of the log-determinant: the power series, stopped at random."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.blocks.residual.log_det import LogDet
from invertible.blocks.residual.map import ResidualMap
from invertible.blocks.residual.power_series import hutchinson
from invertible.blocks.residual.probes import check_probe
from invertible.errors import ConfigError, choose, require_positive

DEFAULTS = {"geometric": 0.5, "poisson": 2.0}


@dataclass(frozen=True)
class RussianRoulette(LogDet):
    """sum_(k <= m + N) (-1)^(k+1)/k v^T J^k v / P(N >= k - m), N random: unbiased (Chen et al. 2019, equation 6).

    The first m terms are always taken. N is drawn once a call for the whole batch, as the paper's code does, from the
    global generator, so that a pass which is run again meets the same one. Recommended for training.

    With the geometric distribution, P(N >= k) = (1 - p)^(k-1) for k = 1, 2, ...; the variance is finite for
    L^2 < 1 - p. With Poisson's, N = 0, 1, ... and P(N >= k) falls faster than any L^(2k), so that far terms are rare
    and weigh much. `log_det_statistics` measures the deviation.

    Cost: m + E[N] products with J^T (E[N] = 1/p or lambda), and one more with a graph.

    Args:
        distribution: `"geometric"` or `"poisson"`.
        parameter: p in (0, 1), or lambda > 0; the paper's code has 0.5 and 2, taken if `None`.
        exact_terms: m.
        probes: number of v a sample, of which the mean is taken.
        probe: `"rademacher"` (signs, of least variance) or `"gaussian"` (the paper's code).

    Raises:
        ConfigError: if an argument is out of its range.

    Example:
        >>> block = ResidualBlock(net, log_det=RussianRoulette("poisson", 2.0, exact_terms=2))
    """

    distribution: str = "geometric"
    parameter: float | None = None
    exact_terms: int = 2
    probes: int = 1
    probe: str = "rademacher"

    def __post_init__(self) -> None:
        default = choose("RussianRoulette", "distribution", self.distribution, DEFAULTS)
        require_positive("RussianRoulette", exact_terms=self.exact_terms, probes=self.probes)
        check_probe("RussianRoulette", self.probe)
        if self.parameter is None:
            object.__setattr__(self, "parameter", default)
        limit = 1.0 if self.distribution == "geometric" else math.inf
        if not 0 < self.rate < limit:
            raise ConfigError(
                f"RussianRoulette: expected parameter in (0, {limit:g}) for {self.distribution}, got {self.parameter}."
            )

    @property
    def rate(self) -> float:
        """p or lambda."""
        assert self.parameter is not None
        return self.parameter

    def estimate(self, g: ResidualMap, x: Tensor, *, gradient: str = "neumann") -> tuple[Tensor, Tensor]:
        """g(x) and the estimate, by a number of terms and probes from the global generators."""
        return hutchinson(g, x, self.weights(self.draw()), self.probes, self.probe, gradient)

    def draw(self) -> int:
        """N, from the global generator of the CPU."""
        # No device is waited for.
        number = torch.zeros((), dtype=torch.float64, device="cpu")
        if self.distribution == "geometric":
            return int(number.geometric_(self.rate))
        return int(torch.poisson(number.fill_(self.rate)))

    def weights(self, number: int) -> list[float]:
        """a_1 .. a_(m+N): 1 for the first m terms, then 1/P(N >= k - m)."""
        return [1.0] * self.exact_terms + [1 / self.tail(k) for k in range(1, number + 1)]

    def tail(self, k: int) -> float:
        """P(N >= k) for k >= 1."""
        if self.distribution == "geometric":
            return (1 - self.rate) ** (k - 1)
        # The lower incomplete gamma function, which does not cancel as one minus a sum does.
        arguments = torch.tensor([float(k), self.rate], dtype=torch.float64)
        return float(torch.special.gammainc(arguments[0], arguments[1]))
