"""Activations computed again from a few kept states, recursively."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

from torch import Tensor

from invertible.errors import require_positive
from invertible.memory.checkpoint import ForwardTape
from invertible.memory.log import Log
from invertible.memory.revolve import positions, split
from invertible.memory.step import State, Step
from invertible.memory.strategy import Strategy
from invertible.memory.tape import Tape


@dataclass(frozen=True)
class Recursive(Strategy):
    """Keep a few states and compute the others again from them, as often as it takes (Griewank & Walther 2000).

    Memory: `slots` states and the activations of one step; by default 1 + log2(L) slots. Time: every step is run with
    its graph once, and t(L, s) = r L - C(s + r, r - 1) times without, r the least number with C(s + r, s) >= L: the
    fewest possible, O(L log L) by default.

    Recommended for very deep chains of blocks without a good inverse; `"reversible"` is faster where it applies.

    Args:
        slots: states held, the chain's input included; 1 + ceil(log2 L) if `None`.
        guard: as in `Checkpoint`.

    Raises:
        ConfigError: if `slots` is not positive.

    Example:
        >>> net = Chain(*blocks, memory=Recursive(slots=5))
    """

    slots: int | None = None
    guard: bool = True

    def __post_init__(self) -> None:
        if self.slots is not None:
            require_positive("Recursive", slots=self.slots)

    def tape(self, steps: Sequence[Step], state: State, condition: Tensor | None, log: Log) -> Tape:
        """A tape that runs steps again recursively."""
        return RecursiveTape(steps, condition, log, state, self)


class RecursiveTape(ForwardTape):
    """A pass that keeps states where the optimal schedule wants them."""

    def __init__(
        self, steps: Sequence[Step], condition: Tensor | None, log: Log, state: State, strategy: Recursive
    ) -> None:
        super().__init__(steps, condition, log, state, guard=strategy.guard)
        self.slots, self.planned = strategy.slots, set()

    def begin(self) -> None:
        """Place the first states; the last step is stored, as its backward comes first."""
        length = len(self.steps) - self.first
        if self.slots is None:
            self.slots = 1 + ceil(log2(max(length, 2)))
        self.planned = {self.first + position for position in positions(length, self.slots)}
        self.stored.add(len(self.steps) - 1)

    def holds(self, index: int) -> bool:
        """As planned."""
        return index in self.planned

    def refill(self, index: int) -> None:
        """Go to a step from the nearest kept state, keeping states on the way as the schedule wants them."""
        start, state = self.nearest(index)
        self.states = {position: held for position, held in self.states.items() if position <= start}
        free = max(1, (self.slots or 1) - len(self.states) + 1)
        while start < index:
            length = index - start + 1
            ahead = split(length, free) if free > 1 else length - 1
            for step in range(start, start + ahead):
                state = self.checked(step + 1, self.walk(step, state))
            start += ahead
            if free > 1:
                self.hold(start, state)
                free -= 1
        _, saved = self.rerun(index, state)
        self.fill(index, saved)
