"""Whether the mean of one sample of seeds is below that of another by more than chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def difference(own: Sequence[float], other: Sequence[float]) -> float:
    """Of the means, own - other."""
    return statistics.fmean(own) - statistics.fmean(other)


def below(own: Sequence[float], other: Sequence[float], *, one: float, most: float = 1.0) -> float:
    """How far the mean of `own` may lie below that of `other` to be called equal.

    Two standard errors of the difference, that is, 2 sqrt(s^2/n + s'^2/n').

    Args:
        own: a value a seed, as many as at least two.
        other: likewise.
        one: at least so much: the step between two values, such as one test image.
        most: at most so much, so that a wild spread proves nothing.
    """
    error = math.sqrt(sum(statistics.variance(each) / len(each) for each in (own, other)))
    return min(most, max(one, 2 * error))
