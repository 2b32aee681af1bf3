"""The optimal schedule of checkpoints for a chain of equal steps (Griewank & Walther 2000)."""

from functools import lru_cache
from math import comb


def advances(length: int, slots: int) -> int:
    """t(l, s): the fewest steps run without a graph, to go backwards through a chain.

    t(l, s) = r l - C(s + r, r - 1), with the least r for which C(s + r, s) >= l (Griewank & Walther 2000, equation 2).

    Args:
        length: l, number of steps; each is besides run once with a graph.
        slots: s, states that can be held, the first one included.
    """
    if length <= 1:
        return 0
    repeats = _repeats(length, slots)
    return repeats * length - comb(slots + repeats, repeats - 1)


@lru_cache(maxsize=4096)
def split(length: int, slots: int) -> int:
    """m: after how many steps to hold the next state, so that m + t(l - m, s - 1) + t(m, s) = t(l, s).

    Args:
        length: l, at least 2.
        slots: s, free states, that of the first step included.

    Returns:
        Between 1 and l - 1; with one slot l - 1, and no state is held there.
    """
    if slots == 1:
        return length - 1
    repeats = _repeats(length, slots)
    # The largest m of the optimal ones: both parts then fit their numbers of repeats.
    return max(1, min(comb(slots + repeats - 1, slots), length - comb(slots + repeats - 2, slots - 1)))


def positions(length: int, slots: int) -> list[int]:
    """Where the first pass over a chain holds states."""
    found, start = [0], 0
    while slots > 1 and length > 1:
        step = split(length, slots)
        start, length, slots = start + step, length - step, slots - 1
        found.append(start)
    return found


def _repeats(length: int, slots: int) -> int:
    repeats = 0
    while comb(slots + repeats, slots) < length:
        repeats += 1
    return repeats
