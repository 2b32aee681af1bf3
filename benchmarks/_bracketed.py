"""CPU time of many slow competitors, each beside references that run shortly before and after it.

With twenty competitors a round takes longer than a shared machine keeps its pace, so that ratios within a round, as
`_timing.interleaved` has them, are off by a tenth and more.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from _timing import clock

Calls = dict[str, Callable[[], object]]
SHORTEST = 0.5  # seconds of a measurement; a shorter call is repeated
GROUP = 2  # competitors between two runs of the references


@dataclass
class Times:
    """Of one competitor.

    Attributes:
        seconds: of a call, one entry a measurement.
        ratios: to each reference, the mean of the ones before and after.
    """

    seconds: list[float] = field(default_factory=list)
    ratios: dict[str, list[float]] = field(default_factory=dict)

    def add(self, seconds: float, references: dict[str, float]) -> None:
        """One more measurement."""
        self.seconds.append(seconds)
        for name, beside in references.items():
            self.ratios.setdefault(name, []).append(seconds / beside)

    def ratio(self, reference: str) -> float:
        """Median."""
        return statistics.median(self.ratios[reference])


def bracketed(calls: Calls, references: tuple[str, ...], rounds: int) -> dict[str, Times]:
    """Measure every call `rounds` times, in alternating order, after one call for warming up.

    Args:
        calls: by name.
        references: names among them, which run between any two groups of the others.
        rounds: measurements of each.
    """
    repeats = {name: math.ceil(SHORTEST / max(_seconds(call, 1), 1e-6)) for name, call in calls.items()}
    times = {name: Times() for name in calls}
    others = [name for name in calls if name not in references]

    def measure(names: tuple[str, ...] | list[str]) -> dict[str, float]:
        return {name: _seconds(calls[name], repeats[name]) for name in names}

    for index in range(rounds):
        order = others if index % 2 == 0 else others[::-1]
        before = measure(references)
        for start in range(0, len(order), GROUP):
            group, after = measure(order[start : start + GROUP]), measure(references)
            beside = {name: (before[name] + after[name]) / 2 for name in references}
            for name, seconds in (group | after).items():
                times[name].add(seconds, beside if name in group else after)
            before = after
    return times


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats
