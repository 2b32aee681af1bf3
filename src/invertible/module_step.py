"""Any module as a step, whether it has an inverse or not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from invertible.errors import NotInvertibleError
from invertible.memory.step import State, Step
from invertible.rounding import round_to_grid

Call = Callable[[Tensor], Tensor]


def module_step(module: nn.Module) -> Step:
    """A module on whole tensors as a step: rebuilt by its method `inverse` if it has one, else from its kept input."""
    return InvertibleModuleStep(module) if has_inverse(module) else KeptStep(module, module)


def has_inverse(module: nn.Module) -> bool:
    """Whether a module has a method `inverse`."""
    return callable(getattr(module, "inverse", None))


class KeptStep(Step):
    """A map on whole tensors whose input is kept: strategies run it again from there. The state is (x,).

    Args:
        module: holds the map's parameters and buffers.
        call: the map.
    """

    invertible = False

    def __init__(self, module: nn.Module, call: Call) -> None:
        self.module, self.name, self.modules, self.call = module, type(module).__name__, (module,), call

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """The map. Its log-determinant is not known, and none is added."""
        return (self.call(state[0]),), None

    def invert(self, state: State, condition: Tensor | None) -> State:
        """Nothing undoes it.

        Raises:
            NotInvertibleError: always.
        """
        raise NotInvertibleError(f"{self.name}: has no inverse that could be used.", block=self.name)

    def exact(self, bits: int) -> Step:
        """The map in its own dtype, between states on the grid."""
        return GridStep(self.module, self.call, bits)


class InvertibleModuleStep(KeptStep):
    """A module with a method `inverse(y) -> x` that undoes `forward`, on whole tensors.

    Args:
        module: maps a tensor to a tensor. With an attribute `exact` that is true, its inverse returns every bit.
    """

    invertible = True

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, module)
        self.lossless = bool(getattr(module, "exact", False))

    def invert(self, state: State, condition: Tensor | None) -> State:
        """The module's inverse."""
        return (self.module.inverse(state[0]),)  # pyright: ignore[reportCallIssue]

    def exact(self, bits: int) -> Step:
        """The step itself if it is lossless; else its input is kept."""
        return self if self.lossless else super().exact(bits)


class GridStep(KeptStep):
    """A map between states that are multiples of 2^-bits in float64, undone by keeping its input.

    Args:
        module: holds the map's parameters and buffers, in whose dtype it runs.
        call: the map.
        bits: binary digits behind the point.
    """

    def __init__(self, module: nn.Module, call: Call, bits: int) -> None:
        super().__init__(module, call)
        self.bits = bits

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """The map's result, rounded to the grid with the gradient of the identity."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        dtype = next((x.dtype for x in tensors if x.is_floating_point()), torch.float32)
        # Another memory format gives other bits, and a rebuilt tensor may come in another one.
        return (round_to_grid(self.call(state[0].to(dtype).contiguous()), self.bits),), None
