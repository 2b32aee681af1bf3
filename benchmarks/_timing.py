"""CPU time of competitors on a machine that others use too, and what a call allocates and dispatches."""

import gc
import math
import statistics
import time
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

from invertible.reproduce.allocations import quiet

# The clock of this process: what others take of a shared processor is not counted.
clock = time.process_time
SHORTEST = 0.01  # seconds; a shorter measurement repeats its call, for the clock's and the caches' noise


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds a call of each competitor, round by round: A B C, then C B A, and so on.

    Neighbours in time share the machine's state, so ratios within a round are steadier than the times.
    """
    repeats = {name: math.ceil(SHORTEST / max(_seconds(call, 1), 1e-6)) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for index in range(rounds):
        for name in order if index % 2 == 0 else order[::-1]:
            seconds[name].append(_seconds(calls[name], repeats[name]))
    return seconds


def _seconds(call: Callable[[], object], repeats: int) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def median_ratio(seconds: list[float], reference: list[float]) -> float:
    """Median over rounds of the ratio to the reference in the same round."""
    return statistics.median(a / b for a, b in zip(seconds, reference, strict=True))


def peak_bytes(call: Callable[[], object]) -> int:
    """The allocator's high water during the call, above what was allocated before it."""
    gc.collect()
    with quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    current = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        current += event.nbytes()
        peak = max(peak, current)
    return peak


def operator_calls(call: Callable[[], object]) -> int:
    """Number of aten operators that the call dispatches, those within others counted too."""
    with quiet(), profile(activities=[ProfilerActivity.CPU]) as record:
        call()
    return sum(event.count for event in record.key_averages() if event.key.startswith("aten::"))
