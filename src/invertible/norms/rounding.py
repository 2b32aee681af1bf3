"""Rounding outwards: what float64 computes is widened by more than its rounding errors."""

import math

EPSILON = 2.0**-52


def outward(value: float, operations: float = 1.0) -> float:
    """An upper bound of a number that was computed with a relative error of at most 4 eps times `operations`."""
    return math.inf if math.isnan(value) else value * (1 + 4 * EPSILON * operations)


def times(a: float, b: float) -> float:
    """Product of bounds: 0 times infinity is 0, for a map that does not depend on its input has no slope."""
    return 0.0 if 0.0 in (a, b) else a * b
