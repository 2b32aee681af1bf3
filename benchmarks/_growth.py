"""How a quantity grows with depth: the exponent of a power law."""

import math


def exponent(lengths: list[int], values: list[float]) -> float:
    """p of the least-squares fit of log value = p log length + constant; NaN with fewer than two positive values."""
    points = [(math.log(n), math.log(v)) for n, v in zip(lengths, values, strict=True) if v > 0]
    if len(points) < 2:
        return math.nan
    mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else math.nan
