"""How a quantity grows with depth: the exponent of a power law."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def exponent(lengths: Sequence[float], values: Sequence[float]) -> float:
    """p of the least-squares fit of log value = p log length + constant; NaN unless all values are positive."""
    if len(lengths) < 2 or not all(0 < value < math.inf for value in values):
        return math.nan
    x, y = ([math.log(each) for each in column] for column in (lengths, values))
    return statistics.linear_regression(x, y).slope
