"""Activations kept as far as a number of bytes goes, the others rebuilt."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from invertible.errors import ConfigError
from invertible.memory.guard import Guard
from invertible.memory.log import Log
from invertible.memory.rebuilding import ReversibleTape
from invertible.memory.step import State, Step
from invertible.memory.strategy import Strategy
from invertible.memory.tape import Tape

UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
# Budgets are planned in so many pieces.
PIECES = 2000


@dataclass(frozen=True)
class Budget(Strategy):
    """Store the activations of as many steps as fit into a budget; rebuild those of the others.

    The first pass rebuilds everything and measures bytes and seconds of every step; from then on the steps are stored
    whose recomputation costs most for their bytes, an exact knapsack. Time: near (4 - f)/3 of a stored step when a
    share f of the work is stored. Memory: the given bytes are held between forward and backward; the peak is
    higher by one step's activations and gradients.

    Recommended where `"reversible"` leaves memory unused. Measured for the batch at hand; a batch of another size is
    planned for in proportion.

    Args:
        memory: bytes, as a number or as `"512MiB"`, `"2GB"`.
        guard: as in `Reversible`.
        tolerance: as in `Reversible`.
        on_failure: as in `Reversible`.
        every: as in `Reversible`.

    Raises:
        ConfigError: at construction, naming the argument.

    Example:
        >>> net = Chain(*blocks, memory=Budget("512MiB"))
    """

    memory: int | str
    guard: bool = True
    tolerance: float | None = None
    on_failure: str = "repair"
    every: int = 1

    def __post_init__(self) -> None:
        self.limit  # noqa: B018
        Guard.build("Budget", self.tolerance, self.on_failure, self.every)

    @property
    def limit(self) -> int:
        """The budget in bytes."""
        return parse_bytes(self.memory)

    def tape(self, steps: Sequence[Step], state: State, condition: Tensor | None, log: Log) -> Tape:
        """A tape that measures, at first, and then one that stores what was chosen."""
        guard = Guard.build("Budget", self.tolerance, self.on_failure, self.every) if self.guard else None
        if not log.costs:
            return MeasuringTape(steps, condition, log, state, guard)
        scale = _numel(state) / max(log.costs[0].numel, 1)
        room = self.limit - round(log.bytes_rebuilt * scale)
        chosen = _plan(tuple(log.costs), scale, room)
        tape = ReversibleTape(steps, condition, log, state, guard)
        tape.store(chosen, sum(round(log.costs[index].saved * scale) for index in chosen))
        return tape


@dataclass(frozen=True)
class Cost:
    """What a step costs.

    Attributes:
        saved: bytes that autograd saves in it.
        state: bytes of its input.
        seconds: of one run.
        numel: numbers in the chain's input when it was measured.
    """

    saved: int
    state: int
    seconds: float
    numel: int


@lru_cache(maxsize=64)
def _plan(costs: tuple[Cost, ...], scale: float, room: int) -> list[int]:
    """What to store for a batch `scale` times the measured one: solved once, not in every pass."""
    saved, states = [round(cost.saved * scale) for cost in costs], [round(cost.state * scale) for cost in costs]
    return choose_stored(saved, states, [cost.seconds for cost in costs], room)


class MeasuringTape(ReversibleTape):
    """A pass that rebuilds everything and measures the cost of every step."""

    def forward(self, state: State) -> tuple[State, Tensor | None]:
        """Run all steps and leave their costs in the log."""
        self.costs = [Cost(0, 0, 0.0, _numel(state))] * len(self.steps)
        result = super().forward(state)
        self.log.costs, self.log.bytes_rebuilt = self.costs, self.log.bytes_kept
        return result

    def call(self, index: int, state: State) -> tuple[State, Tensor | None]:
        """Run a step and measure it."""
        on_device = [x.device for x in state if x.is_cuda]
        for device in on_device:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        result = super().call(index, state)
        for device in on_device:
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        saved = {
            x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in self.ledgers[index].slots.values()
        }
        size = sum(x.numel() * x.element_size() for x in state)
        self.costs[index] = Cost(sum(saved.values()), size, seconds, self.costs[index].numel)
        return result


def choose_stored(saved: list[int], states: list[int], seconds: list[float], room: int) -> list[int]:
    """Which steps to store so that most seconds are saved: a knapsack.

    A stored step that follows one which is not needs its input kept as well, for whoever walks on from there.

    Args:
        saved: bytes of each step's activations.
        states: bytes of each step's input.
        seconds: of each step.
        room: bytes to spend.

    Returns:
        Indices in rising order.
    """
    # What saves nothing costs nothing to store, and may stand between two that are stored.
    seconds = [gain if size else 0.0 for size, gain in zip(saved, seconds, strict=True)]
    if room <= 0:
        return []
    piece = max(1, -(-room // PIECES))
    capacity = room // piece
    # best[k][b]: seconds saved with b pieces spent, the last step rebuilt (k = 0) or stored (k = 1).
    best = np.full((2, capacity + 1), -np.inf)
    best[0] = 0.0
    taken: list[tuple[np.ndarray, np.ndarray]] = []
    for index, (size, gain) in enumerate(zip(saved, seconds, strict=True)):
        own = -(-size // piece)
        first = 0 if index == 0 else -(-states[index] // piece)
        after_rebuilt = _shifted(best[0], own + first) + gain
        after_stored = _shifted(best[1], own) + gain
        taken.append((best[1] > best[0], after_stored >= after_rebuilt))
        best = np.stack((np.maximum(best[0], best[1]), np.maximum(after_rebuilt, after_stored)))
    return sorted(_backtrack(taken, best, saved, states, piece))


def _shifted(values: np.ndarray, pieces: int) -> np.ndarray:
    result = np.full_like(values, -np.inf)
    if pieces < len(values):
        result[pieces:] = values[: len(values) - pieces]
    return result


def _backtrack(
    taken: list[tuple[np.ndarray, np.ndarray]], best: np.ndarray, saved: list[int], states: list[int], piece: int
) -> list[int]:
    spent = best.shape[1] - 1
    stored = bool(best[1][spent] > best[0][spent])
    found = []
    for index in range(len(taken) - 1, -1, -1):
        was_stored_if_rebuilt, was_stored_if_stored = taken[index]
        if not stored:
            stored = bool(was_stored_if_rebuilt[spent])
            continue
        found.append(index)
        before = bool(was_stored_if_stored[spent])
        spent -= -(-saved[index] // piece)
        spent -= 0 if before or index == 0 else -(-states[index] // piece)
        stored = before
    return found


def parse_bytes(value: int | str) -> int:
    """A number of bytes from a number or a text such as "512MiB".

    Raises:
        ConfigError: if it is neither, or not positive.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]+)\s*", value)
        if match and match[2].lower() in UNITS:
            value = round(float(match[1]) * UNITS[match[2].lower()])
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ConfigError(
            "Budget: expected memory to be a positive number of bytes, or a text such as '512MiB' or '2GB', got "
            f"{value!r}."
        )
    return value


def _numel(state: State) -> int:
    return sum(x.numel() for x in state)
