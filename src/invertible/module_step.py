"""Any module as a step, whether it has an inverse or not."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from invertible.errors import NotInvertibleError
from invertible.memory.step import State, Step
from invertible.rounding import round_to_grid


class ModuleStep(Step):
    """A module on whole tensors; the state is (x,). Its log-determinant is not known, and none is added.

    A module with a method `inverse(y) -> x` that undoes `forward` is rebuilt from its output. Of all others the
    strategies keep the input, and run them again from it.

    Args:
        module: maps a tensor to a tensor.
        keep_input: do not use its inverse.
    """

    def __init__(self, module: nn.Module, *, keep_input: bool = False) -> None:
        self.module, self.name, self.modules = module, type(module).__name__, (module,)
        self.invertible = has_inverse(module) and not keep_input
        self.lossless = self.invertible and bool(getattr(module, "exact", False))

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """The module."""
        return (self.module(state[0]),), None

    def invert(self, state: State, condition: Tensor | None) -> State:
        """The module's inverse.

        Raises:
            NotInvertibleError: if it has none.
        """
        if not self.invertible:
            raise NotInvertibleError(f"{self.name}: has no inverse.", block=self.name)
        return (self.module.inverse(state[0]),)  # pyright: ignore[reportCallIssue]

    def exact(self, bits: int) -> Step:
        """The module in its own dtype between states on the grid; its input is kept, unless it is lossless."""
        return self if self.lossless else GridStep(self.module, self.module, bits)


class GridStep(Step):
    """A map between states that are multiples of 2^-bits in float64, undone by keeping its input.

    Args:
        module: holds the map's parameters and buffers, in whose dtype it runs.
        call: the map.
        bits: binary digits behind the point.
    """

    invertible = False

    def __init__(self, module: nn.Module, call: Callable[[Tensor], Tensor], bits: int) -> None:
        self.module, self.name, self.modules = module, type(module).__name__, (module,)
        self.call, self.bits = call, bits

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """The map's result, rounded to the grid with the gradient of the identity."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        dtype = next((x.dtype for x in tensors if x.is_floating_point()), torch.float32)
        # Another memory format gives other bits, and a rebuilt tensor may come in another one.
        return (round_to_grid(self.call(state[0].to(dtype).contiguous()), self.bits),), None

    def invert(self, state: State, condition: Tensor | None) -> State:
        """No rounded map is inverted to the bit.

        Raises:
            NotInvertibleError: always.
        """
        raise NotInvertibleError(f"{self.name}: has no inverse on the grid.", block=self.name)

    def exact(self, bits: int) -> Step:
        """The step on another grid."""
        return GridStep(self.module, self.call, bits)


def has_inverse(module: nn.Module) -> bool:
    """Whether a module has a method `inverse`."""
    return callable(getattr(module, "inverse", None))
