"""What holds a strategy for the activations of its passes."""

from __future__ import annotations

from torch import nn

from invertible.memory.log import Log
from invertible.memory.names import strategy
from invertible.memory.strategy import Strategy


class MemoryOwner(nn.Module):
    """A module whose passes a strategy drives: a chain of bijections, or a sequence of any modules.

    Attributes:
        blocks: what the strategy drives, in order.
        memory_log: what is remembered of its forward passes; `memory.report(model)` shows it.
        inverse_memory_log: the same of passes through its inverse.
    """

    blocks: nn.ModuleList
    memory_log: Log
    inverse_memory_log: Log

    @property
    def memory(self) -> Strategy:
        """How activations are kept for the backward pass."""
        return self._memory

    @memory.setter
    def memory(self, value: str | Strategy) -> None:
        self._memory = strategy(value)
        self.memory_log, self.inverse_memory_log = Log(), Log()


def owners(model: nn.Module) -> list[MemoryOwner]:
    """All modules of a model, itself included, whose passes a strategy drives."""
    return [module for module in model.modules() if isinstance(module, MemoryOwner)]
