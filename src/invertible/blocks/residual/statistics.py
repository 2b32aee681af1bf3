"""How far estimates of a block's log-determinant scatter, and around what."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.blocks.residual.block import ResidualBlock
from invertible.blocks.residual.exact import ExactLogDet
from invertible.blocks.residual.log_det import LogDet
from invertible.errors import ConfigError

# Above this many numbers a sample no dense Jacobian is computed.
DENSE = 512


@dataclass(frozen=True)
class LogDetStatistics:
    """Of repeated estimates, per sample, float64 of shape (B,).

    Attributes:
        mean: of the estimates.
        deviation: their standard deviation.
        standard_error: that of the mean, deviation/sqrt(repeats).
        exact: log|det(I + J)|, `None` above 512 dimensions.
        truncation: certified upper bound of the bias, in nats.
        repeats: number of estimates.
    """

    mean: Tensor
    deviation: Tensor
    standard_error: Tensor
    exact: Tensor | None
    truncation: float
    repeats: int


@torch.no_grad()
def log_det_statistics(
    block: ResidualBlock,
    x: Tensor,
    repeats: int = 100,
    *,
    condition: Tensor | None = None,
    log_det: LogDet | None = None,
    generator: torch.Generator | int | None = None,
) -> LogDetStatistics:
    """Estimate a block's log-determinant again and again at the same x.

    The global generators are as before afterwards.

    Args:
        block: the residual block; its mode does not matter.
        x: shape (B, ...).
        repeats: number of estimates, at least 2.
        condition: the condition, if it takes one.
        log_det: the estimate to look at; the block's own of training mode if `None`.
        generator: source of the numbers of terms and the probes, or a seed; the global one if `None`.

    Raises:
        ConfigError: if `repeats` is below 2.

    Example:
        >>> found = log_det_statistics(block, x, 1000, log_det=RussianRoulette("poisson"), generator=0)
        >>> (found.mean - found.exact).abs() / found.standard_error
    """
    if repeats < 2:
        raise ConfigError(f"log_det_statistics: expected repeats of at least 2, got {repeats}.")
    chosen = block.training_log_det(x) if log_det is None else log_det
    g = block.residual_map(condition)
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        if generator is not None:
            torch.manual_seed(_seed(generator))
        found = torch.stack([chosen.estimate(g, x, gradient="neumann")[1].double() for _ in range(repeats)])
    dimensions = math.prod(x.shape[1:])
    exact = ExactLogDet().estimate(g, x)[1].double() if dimensions <= DENSE else None
    deviation = found.std(0)
    bias = chosen.truncation(block.lipschitz, dimensions)
    return LogDetStatistics(found.mean(0), deviation, deviation / math.sqrt(repeats), exact, bias, repeats)


def _seed(generator: torch.Generator | int) -> int:
    if isinstance(generator, int):
        return generator
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))
