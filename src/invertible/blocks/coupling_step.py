"""The step of a coupling: what memory strategies drive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertible.blocks.elementwise import StepMap
from invertible.memory.step import State, Step, leaves
from invertible.steps import summed

Conditioner = Callable[[Tensor, Tensor | None], Tensor]


class CouplingStep(Step):
    """One of two tensors transformed elementwise, with parameters computed from the other one; the state is (a, b).

    Args:
        name: of the block.
        module: holds the conditioner's parameters.
        conditioner: parameters from the passive tensor and the condition.
        elementwise: the map of the active tensor.
        active: which tensor is transformed, 0 or 1.
    """

    one_pass = True

    def __init__(
        self, name: str, module: nn.Module, conditioner: Conditioner, elementwise: StepMap, *, active: int
    ) -> None:
        self.name, self.modules, self.changed = name, (module,), (active,)
        self.conditioner, self.elementwise, self.active = conditioner, elementwise, active
        self._takes_condition = bool(getattr(module, "condition_features", 0))

    def _parameters(self, passive: Tensor, condition: Tensor | None) -> Tensor:
        return self.conditioner(passive, condition if self._takes_condition else None)

    def _put(self, passive: Tensor, active: Tensor) -> State:
        return (passive, active) if self.active else (active, passive)

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """The elementwise map."""
        passive, active = state[1 - self.active], state[self.active]
        y, log_slope = self.elementwise.forward(active, self._parameters(passive, condition))
        return self._put(passive, y), summed(log_slope)

    def invert(self, state: State, condition: Tensor | None) -> State:
        """The inverse of the elementwise map."""
        passive, active = state[1 - self.active], state[self.active]
        return self._put(passive, self.elementwise.inverse(active, self._parameters(passive, condition))[0])

    def reconstruct(self, state: State, condition: Tensor | None) -> State:
        """Both from one evaluation of the conditioner: the active tensor recovered, and the graph of `run`."""
        (passive,) = leaves((state[1 - self.active],))
        parameters = self._parameters(passive, condition)
        with torch.no_grad():
            active, _ = self.elementwise.inverse(state[self.active], parameters)
        if self.elementwise.saves:
            self.elementwise.forward(active.requires_grad_(), parameters)
        return self._put(passive, active)

    @property
    def inverted(self) -> Step:
        """The same conditioner with the inverse map."""
        (module,) = self.modules
        return CouplingStep(self.name, module, self.conditioner, InverseMap(self.elementwise), active=self.active)

    def exact(self, bits: int) -> Step:
        """The map on multiples of 2^-bits, where it has one; the conditioner sees them in its own dtype."""
        on_grid = self.elementwise.on_grid(bits)
        if on_grid is None:
            return super().exact(bits)
        (module,) = self.modules
        dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)

        def cast(passive: Tensor, condition: Tensor | None) -> Tensor:
            # Another memory format gives other bits, and a rebuilt tensor may come in another one.
            return self.conditioner(passive.to(dtype).contiguous(), condition)

        return CouplingStep(self.name, module, cast, on_grid, active=self.active)


@dataclass(frozen=True)
class InverseMap:
    """An elementwise map the other way round, as far as a step needs one."""

    elementwise: StepMap

    @property
    def saves(self) -> bool:
        """As the map itself."""
        return self.elementwise.saves

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """The map's inverse."""
        return self.elementwise.inverse(x, parameters)

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """The map."""
        return self.elementwise.forward(y, parameters)

    def on_grid(self, bits: int) -> StepMap | None:
        """The inverse of the map on multiples of 2^-bits."""
        inner = self.elementwise.on_grid(bits)
        return None if inner is None else InverseMap(inner)
