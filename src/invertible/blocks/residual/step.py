"""A residual block as a step of a strategy of `memory`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from invertible.memory.step import State
from invertible.steps import BlockStep


class ResidualStep(BlockStep):
    """The block; its inverse solves and computes no log-determinant, so that it draws no random numbers.

    Args:
        block: a `ResidualBlock`.
    """

    def __init__(self, block: Any) -> None:  # noqa: ANN401
        super().__init__(block)

    def invert(self, state: State, condition: Tensor | None) -> State:
        """x of a given y."""
        return (self.block.solve(state[0], self._given(condition)).x,)
