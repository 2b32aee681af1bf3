"""The Haar transform on a grid of numbers."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from invertible.memory.step import State, Step
from invertible.rounding import round_to_grid
from invertible.shapes import check_input

# A rotation by t = -45 degrees is three shears: by -tan(t/2), sin(t) and -tan(t/2) (Paeth 1986).
OUTER, MIDDLE = math.sqrt(2) - 1, -math.sqrt(0.5)


class HaarStep(Step):
    """The Haar transform on multiples of 2^-bits, state (x,) in float64.

    ((a + b)/sqrt 2, (a - b)/sqrt 2) is a rotation by -45 degrees and a change of sign; four of these make the
    transform of a square: two across, then two down. Each is a += round(p b), b += round(s a), a += round(p b),
    p = sqrt 2 - 1, s = -sqrt(1/2), undone to the bit by subtracting in reverse order: what is rounded is one product
    of two numbers, which is the same both times. Rounding has the gradient of the identity.

    Numerics: bands differ from those of `Haar` by less than 2.6 x 2^-bits.

    Args:
        block: the `Haar` block, which cuts images into squares.
        bits: binary digits behind the point.

    Raises:
        ShapeError: as `Haar`.
    """

    def __init__(self, block: Any, bits: int) -> None:  # noqa: ANN401
        self.name, self.modules, self.block, self.bits = type(block).__name__, (block,), block, bits

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """Across, then down."""
        check_input(self.name, state[0], None, 2)
        a, b, c, d = self.block.pixels(state[0])
        (a, b), (c, d) = self._turn(a, b), self._turn(c, d)
        (average, down), (across, diagonal) = self._turn(a, c), self._turn(b, d)
        return (self.block.from_bands([average, across, down, diagonal]),), None

    def invert(self, state: State, condition: Tensor | None) -> State:
        """Down undone, then across."""
        check_input(self.name, state[0], None, 2)
        average, across, down, diagonal = self.block.bands(state[0])
        (a, c), (b, d) = self._turn_back(average, down), self._turn_back(across, diagonal)
        (a, b), (c, d) = self._turn_back(a, b), self._turn_back(c, d)
        return (self.block.from_pixels([a, b, c, d]),)

    def exact(self, bits: int) -> Step:
        """The step on another grid."""
        return HaarStep(self.block, bits)

    def _turn(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        a = a + round_to_grid(OUTER * b, self.bits)
        b = b + round_to_grid(MIDDLE * a, self.bits)
        return a + round_to_grid(OUTER * b, self.bits), -b

    def _turn_back(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        a, b = a - round_to_grid(OUTER * -b, self.bits), -b
        b = b - round_to_grid(MIDDLE * a, self.bits)
        return a - round_to_grid(OUTER * b, self.bits), b
