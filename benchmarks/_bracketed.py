"""CPU time of many slow competitors, each beside references that run right before and right after it.

With twenty competitors a round takes longer than a shared machine keeps its pace, so that ratios within a round, as
`_timing.interleaved` has them, are off by a tenth and more.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from _timing import clock

Calls = dict[str, Callable[[], object]]


@dataclass
class Times:
    """Of one competitor.

    Attributes:
        seconds: of a call, round by round.
        ratios: to each reference, the mean of the one before and the one after, round by round.
    """

    seconds: list[float] = field(default_factory=list)
    ratios: dict[str, list[float]] = field(default_factory=dict)

    def add(self, seconds: float, references: dict[str, float]) -> None:
        """One more measurement."""
        self.seconds.append(seconds)
        for name, beside in references.items():
            self.ratios.setdefault(name, []).append(seconds / beside)

    def ratio(self, reference: str) -> float:
        """Median over the rounds."""
        return statistics.median(self.ratios[reference])


def bracketed(calls: Calls, references: tuple[str, ...], rounds: int) -> dict[str, Times]:
    """Measure every call `rounds` times, in alternating order, after one call for warming up.

    Args:
        calls: by name.
        references: names among them, which run between any two of the others.
        rounds: measurements of each.
    """
    for call in calls.values():
        call()
    times = {name: Times() for name in calls}
    others = [name for name in calls if name not in references]
    for index in range(rounds):
        before = _seconds(calls, references)
        for name in others if index % 2 == 0 else others[::-1]:
            own = _seconds(calls, (name,))[name]
            after = _seconds(calls, references)
            beside = {reference: (before[reference] + after[reference]) / 2 for reference in references}
            times[name].add(own, beside)
            for reference in references:
                times[reference].add(after[reference], after)
            before = after
    return times


def _seconds(calls: Calls, names: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for name in names:
        start = clock()
        calls[name]()
        found[name] = clock() - start
    return found
