"""Estimates read off the state of a machine while it runs, under any strategy of `memory`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from invertible.memory.step import OnPart, State, Step


class Reading(Step):
    """Appends to the state what a map reads off its first tensor; undone by dropping it.

    So all estimates of a machine cost the memory of the estimates, not that of the states which they are read off.

    Args:
        read: the map of the first tensor; what it returns shares no memory with it.
        modules: hold its parameters.
    """

    lossless, name = True, "Reading"

    def __init__(self, read: Callable[[Tensor], Tensor], modules: Sequence[nn.Module] = ()) -> None:
        self.read, self.modules = read, tuple(modules)

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """Read."""
        return (*state, self.read(state[0])), None

    def invert(self, state: State, condition: Tensor | None) -> State:
        """Drop what was read."""
        return state[:-1]


def with_readings(segments: Sequence[Sequence[Step]], reading: Step) -> Iterator[Step]:
    """The steps of all segments in order, with a reading behind each segment."""
    for count, segment in enumerate(segments):
        # What has been read passes by the steps behind.
        for step in (*segment, reading):
            yield step if step is reading or not count else OnPart(step, count)
