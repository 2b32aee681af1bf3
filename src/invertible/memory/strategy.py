"""Strategies: how a chain keeps its activations for the backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invertible.memory.log import Log
from invertible.memory.step import State, Step
from invertible.memory.tape import Tape, can_record, is_differentiable, record


class Strategy:
    """How the activations of a chain are kept. Strategies are immutable values; chains may share them."""

    @property
    def stores(self) -> bool:
        """Whether plain autograd does it all."""
        return False

    def applies(self) -> bool:
        """Whether a call that is made now is the strategy's business, and not plain autograd's."""
        return not self.stores and can_record()

    def run(
        self, steps: Sequence[Step], state: State, condition: Tensor | None, log: Log
    ) -> tuple[State, Tensor | None]:
        """Run the steps so that a backward pass may follow.

        Returns:
            The output, and the sum of log-determinants, (B,), `None` for 0.
        """
        if self.stores or not steps or not is_differentiable(steps, state, condition):
            return run_plainly(steps, state, condition)
        if torch.compiler.is_compiling():
            # Imported only now: it loads the compiler, which takes longer than all else.
            from invertible.memory.uncompiled import record_uncompiled

            return record_uncompiled(self.tape, steps, state, condition, log)
        return record(self.tape, steps, state, condition, log)

    def tape(self, steps: Sequence[Step], state: State, condition: Tensor | None, log: Log) -> Tape:
        """A tape for one pass."""
        raise TypeError(f"{type(self).__name__}: define tape(self, steps, state, condition, log).")


class Store(Strategy):
    """Keep everything, as autograd does.

    Memory: O(L). Recommended while it fits; the other strategies are measured against it.
    """

    @property
    def stores(self) -> bool:
        """Yes."""
        return True

    def __repr__(self) -> str:
        return "Store()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store)

    def __hash__(self) -> int:
        return hash(Store)


def run_plainly(steps: Sequence[Step], state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
    """All steps in order, under plain autograd."""
    total: Tensor | None = None
    for step in steps:
        state, log_det = step.run(state, condition)
        if log_det is not None:
            total = log_det if total is None else total + log_det
    return state, total
