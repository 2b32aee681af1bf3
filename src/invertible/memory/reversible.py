"""The strategy that rebuilds activations from the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from invertible.memory.guard import Guard
from invertible.memory.log import Log
from invertible.memory.rebuilding import ReversibleTape
from invertible.memory.step import State, Step
from invertible.memory.strategy import Strategy
from invertible.memory.tape import Tape


@dataclass(frozen=True)
class Reversible(Strategy):
    """Keep the output alone; rebuild each step's input by its inverse, and its graph on the way (Gomez et al. 2017).

    Memory: one activation, whatever the depth; with `on_failure="repair"` the chain's input is held as well, which
    costs nothing where something else holds it (a batch, the output of a ReLU before). Time: inner networks run once
    more, 4 units against the 3 of a stored step; 5 for blocks whose `reconstruct` is the default.

    Recommended for deep chains of blocks with good inverses, in float32 and float64. Not for states in half
    precision, where inverses lose too much: there, `"checkpoint"` or `Exact`.

    Args:
        guard: compare every rebuilt input with a witness that its forward pass left, of one number a sample, and
            prove every step once, in the chain's first pass.
        tolerance: largest relative error of a rebuilt input; by default 2e-4 in float32, which keeps gradients within
            about 1e-3 of the stored ones, 1e-9 in float64, 2e-2 in float16 and 1e-1 in bfloat16. For images whose
            convolutions a GPU rounds to TF32 it is 2e-3: gradients are off by 3e-2 there in any case.
        on_failure: `"repair"`: run the chain again from the nearest kept activation, warn once, and keep that step's
            input from then on; `"raise"`: raise `NotInvertibleError`.
        every: watch every so many steps.

    Raises:
        ConfigError: at construction, naming the argument.

    Example:
        >>> net = Chain(*blocks, memory=Reversible(tolerance=1e-5))
    """

    guard: bool = True
    tolerance: float | None = None
    on_failure: str = "repair"
    every: int = 1

    def __post_init__(self) -> None:
        Guard.build("Reversible", self.tolerance, self.on_failure, self.every)

    def tape(self, steps: Sequence[Step], state: State, condition: Tensor | None, log: Log) -> Tape:
        """A tape that rebuilds."""
        guard = Guard.build("Reversible", self.tolerance, self.on_failure, self.every) if self.guard else None
        return ReversibleTape(steps, condition, log, state, guard)
