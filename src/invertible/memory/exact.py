"""Chains on a grid of numbers, whose inverse and gradients are exact to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from invertible.errors import ConfigError, choose
from invertible.memory.guard import ON_FAILURE, Guard, checksum
from invertible.memory.log import Log
from invertible.memory.rebuilding import ReversibleTape
from invertible.memory.step import State, Step
from invertible.memory.strategy import Strategy, run_plainly
from invertible.memory.tape import Tape
from invertible.rounding import round_to_grid

KEEP = {"output": False, "store": True}
MOST_BITS = 40


@dataclass(frozen=True)
class Exact(Strategy):
    """Carry the states as multiples of 2^-bits in float64, on which addition is undone without a trace.

    Inner networks run in the dtype of their parameters, on the state cast to it; what they return is rounded to the
    grid, with the gradient of the identity, and added. Sums of multiples of 2^-bits are exact up to 2^(53 - bits),
    so that the inverse returns every bit and the backward pass sees what the forward pass saw: its gradients are
    those of stored training of the same network, to the bit (the idea of bit-reversible integrators, Levesque &
    Verlet 1993).

    Memory: one state, in float64. Time: as `Reversible`. Recommended where float32 loses the inverse: deep residual
    chains of gain 1, bfloat16 inner networks. Affine and spline couplings have no exact form.

    The result differs from that of float32 by rounding, about 2^-bits sqrt(L/12). It is returned in the dtype of the
    input: in float64 the inverse of a result is exact for states below 2^(53 - bits); a float32 result holds all its
    bits only below 2^(24 - bits).

    Args:
        bits: k, binary digits behind the point, 1 to 40.
        keep: `"output"`: rebuild everything from the output; `"store"`: the same network with stored activations.
        guard: compare every rebuilt tensor with a checksum, which must agree to the bit.
        on_failure: as in `Reversible`.
        every: as in `Reversible`.

    Raises:
        ConfigError: at construction, naming the argument; when a chain runs, naming a block without an exact form.

    Example:
        >>> net = Chain(*[ReversibleResidual(F, G) for F, G in pairs], memory=Exact(bits=20))
    """

    bits: int = 20
    keep: str = "output"
    guard: bool = True
    on_failure: str = "repair"
    every: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 1 <= self.bits <= MOST_BITS:
            raise ConfigError(f"Exact: expected bits to be an integer in 1 .. {MOST_BITS}, got {self.bits!r}.")
        choose("Exact", "keep", self.keep, KEEP)
        Guard.build("Exact", None, self.on_failure, self.every)

    def applies(self) -> bool:
        """Always: the network itself is another one."""
        return True

    def run(
        self, steps: Sequence[Step], state: State, condition: Tensor | None, log: Log
    ) -> tuple[State, Tensor | None]:
        """Put the input on the grid, run the exact steps, and return the output in the input's dtype."""
        steps = [step.exact(self.bits) for step in steps]
        carried = tuple(round_to_grid(x, self.bits) for x in state)
        if choose("Exact", "keep", self.keep, KEEP):
            result, log_det = run_plainly(steps, carried, condition)
        else:
            result, log_det = super().run(steps, carried, condition, log)
        return tuple(y.to(state[0].dtype) for y in result), log_det

    def tape(self, steps: Sequence[Step], state: State, condition: Tensor | None, log: Log) -> Tape:
        """A tape that compares bits."""
        repairs = choose("Exact", "on_failure", self.on_failure, ON_FAILURE)
        guard = Guard(tolerance=0.0, repairs=repairs, every=self.every) if self.guard else None
        return ExactTape(steps, condition, log, state, guard)


class ExactTape(ReversibleTape):
    """A pass whose rebuilt states must agree with their checksums to the bit."""

    project: Callable[[Tensor], Tensor] = staticmethod(checksum)
