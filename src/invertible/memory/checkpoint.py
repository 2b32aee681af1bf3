"""Activations computed again from the inputs of segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from invertible.errors import require_positive
from invertible.memory.guard import Guard, Watch
from invertible.memory.ledger import ReplayError
from invertible.memory.log import Log
from invertible.memory.step import State, Step
from invertible.memory.strategy import Strategy
from invertible.memory.tape import STORED, Tape


@dataclass(frozen=True)
class Checkpoint(Strategy):
    """Keep the inputs of about sqrt(L) segments; run a segment again when its backward comes.

    (Martens & Sutskever 2012; Chen et al. 2016.) Memory: O(sqrt(L)), the inputs of all segments and the activations
    of one. Time: one more forward pass, less the last segment, which is stored as its backward comes first.

    Recommended where blocks have no good inverse, or in half precision. Needs no inverse at all.

    Args:
        segments: number of segments; the root of the number of steps, rounded, if `None`.
        guard: compare every step's input with a witness of its first run, and raise `ReplayError` where a step gives
            other values when it is run again.

    Raises:
        ConfigError: if `segments` is not positive.

    Example:
        >>> net = Chain(*blocks, memory=Checkpoint(segments=8))
    """

    segments: int | None = None
    guard: bool = True

    def __post_init__(self) -> None:
        if self.segments is not None:
            require_positive("Checkpoint", segments=self.segments)

    def tape(self, steps: Sequence[Step], state: State, condition: Tensor | None, log: Log) -> Tape:
        """A tape that runs segments again."""
        return CheckpointTape(steps, condition, log, state, self)


class ForwardTape(Tape):
    """A pass whose steps are run again from kept inputs; some are stored."""

    def __init__(self, steps: Sequence[Step], condition: Tensor | None, log: Log, state: State, *, guard: bool) -> None:
        super().__init__(steps, condition, log, state)
        self.watch = Watch(Guard() if guard else None, self.steps, log)
        self.stored = {index for index, found in log.quarantined.items() if found.mode == STORED}

    def first_run(self, index: int, state: State) -> tuple[State, Tensor | None]:
        """Run a step, and tell the watch what it changed."""
        run = self.run_stored if index in self.stored else super().first_run
        result = run(index, state)
        self.watch.passed(index, state, result[0])
        return result

    def keep(self, index: int, state: State) -> None:
        """Hold the inputs of the pass and of every step behind a stored one."""
        # Nothing runs what is stored again, so that what follows needs its own input.
        if index not in self.stored and (index == self.first or index - 1 in self.stored or self.holds(index)):
            self.hold(index, state)
        self.watch.leave(index, state)

    def holds(self, index: int) -> bool:
        """Whether the plan keeps a step's input."""
        raise NotImplementedError

    def checked(self, index: int, state: State) -> State:
        """A recomputed input of a step, if it is the one of the first run."""
        if index < len(self.steps) and self.watch.error(index, state, again=True):
            raise self.irreproducible(index - 1)
        return state

    def nearest(self, index: int) -> tuple[int, State]:
        """The nearest kept input of a step or of one before it."""
        for position in range(index, -1, -1):
            state = self.held(position)
            if state is not None:
                return position, state
        raise ReplayError(
            f"memory: the kept input of {self.steps[index].name} was modified in place before the backward pass. Pass "
            "the chain a copy, or call backward() first."
        )


class CheckpointTape(ForwardTape):
    """A pass that keeps the inputs of segments."""

    def __init__(
        self, steps: Sequence[Step], condition: Tensor | None, log: Log, state: State, strategy: Checkpoint
    ) -> None:
        super().__init__(steps, condition, log, state, guard=strategy.guard)
        self.segments, self.starts = strategy.segments, [0]

    def begin(self) -> None:
        """Cut what has a graph in segments of equal length."""
        length = len(self.steps) - self.first
        count = min(length, self.segments or max(1, round(length**0.5)))
        self.starts = [self.first + (length * k) // count for k in range(count)]
        self.stored |= set(range(self.starts[-1], len(self.steps)))

    def holds(self, index: int) -> bool:
        """The first step of a segment, but for the last one, which is stored."""
        return index in self.starts[:-1]

    def refill(self, index: int) -> None:
        """Run the whole segment of a step again."""
        start, state = self.nearest(index)
        end = next((s for s in self.starts if s > index), len(self.steps))
        for step in range(start, end):
            if step in self.stored:
                break
            state, saved = self.rerun(step, state)
            self.fill(step, saved)
            state = self.checked(step + 1, state)
