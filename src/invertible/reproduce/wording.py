"""Numbers as claims and tables write them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def number(value: float, digits: int = 2) -> str:
    """A number to so many significant digits; what is not finite in words."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    return f"{value:.{digits}g}"


def over_seeds(values: Sequence[float], digits: int = 2) -> str:
    """The median of values and their range."""
    if len(values) == 1:
        return number(values[0], digits)
    middle, low, high = (number(each, digits) for each in (statistics.median(values), min(values), max(values)))
    span = "" if low == high else f"{low} to {high} "
    return f"{middle} ({span}over {len(values)} seeds)"


def mean_and_deviation(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± sample deviation."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"
