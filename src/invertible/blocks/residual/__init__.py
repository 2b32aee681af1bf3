"""The invertible residual block y = x + g(x), and its log-determinants."""

from invertible.blocks.residual.block import ResidualBlock
from invertible.blocks.residual.certified_series import CertifiedSeries
from invertible.blocks.residual.exact import ExactLogDet
from invertible.blocks.residual.log_det import LogDet
from invertible.blocks.residual.power_series import PowerSeries, terms_needed, truncation_error
from invertible.blocks.residual.roulette import RussianRoulette
from invertible.blocks.residual.statistics import LogDetStatistics, log_det_statistics

__all__ = [
    "CertifiedSeries",
    "ExactLogDet",
    "LogDet",
    "LogDetStatistics",
    "PowerSeries",
    "ResidualBlock",
    "RussianRoulette",
    "log_det_statistics",
    "terms_needed",
    "truncation_error",
]
