"""Linear maps on a grid of numbers: shears whose product is rounded before it is added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.blocks.weights import LiftingWeight
from invertible.memory.step import State, Step
from invertible.rounding import round_to_grid
from invertible.shapes import check_input
from invertible.steps import BlockStep

# q: the entries of a shear are rounded to multiples of 2^-q.
WEIGHT_BITS = 20


class LiftedStep(BlockStep):
    """A block that is another step on a grid of numbers.

    Args:
        block: the bijection.
        on_grid: its exact form on multiples of 2^-bits, given the bits.
    """

    def __init__(self, block: Any, on_grid: Callable[[int], Step]) -> None:  # noqa: ANN401
        super().__init__(block)
        self.on_grid = on_grid

    def exact(self, bits: int) -> Step:
        """The step on the grid."""
        return self.on_grid(bits)

    @property
    def inverted(self) -> Step:
        """The inverse block's step, and the step on the grid the other way round."""
        step = LiftedStep(self.block.inverted, lambda bits: self.on_grid(bits).inverted)
        step.name = self.name
        return step


class LiftingStep(Step):
    """Shears between two halves of axis 1 on multiples of 2^-bits: a += round(U b), b += round(L a), and so on.

    State (x,), x of shape (B, C, ...) in float64. Inverse: the same in reverse order, subtracting; a bias, rounded, is
    added last. No log-determinant: it is 0. Rounding has the gradient of the identity, for x and for the matrices.

    Numerics: the inverse is exact to the bit, since it subtracts what was added, if the products come out alike both
    times. To that end the entries of the matrices are rounded to multiples of 2^-q, q = 20: all products and their
    sums are then multiples of 2^-(bits + q), which float64 adds without rounding while sum_j |U_ij b_j| is below
    2^(53 - bits - q), 8192 for 20 bits, so that neither the order of the sum nor batch size, layout or device
    matters. Above that, and up to the 2^(53 - bits) that states may reach, it relies on the matrix product to give
    the same bits for the same tensors, as every coupling on the grid does. Against W x, y differs by the roundings of
    x and of the entries, about 2^-bits (1 + sqrt(C)/4) |W| and 2^-q sqrt(C)/4 |x_i|.

    Args:
        name: of the block.
        module: holds the parameters.
        weight: the shears.
        bias: of shape (C,), or `None`.
        bits: binary digits behind the point.

    Raises:
        ShapeError: on an input of another number of channels.
    """

    def __init__(self, name: str, module: nn.Module, weight: LiftingWeight, bias: Tensor | None, bits: int) -> None:
        self.name, self.modules = name, (module,)
        self.weight, self.bias, self.bits = weight, bias, bits

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """The shears, and the bias."""
        y = self._sheared(state[0], self.weight.shears(WEIGHT_BITS), 1)
        return (y if self.bias is None else y + self._offset(y),), None

    def invert(self, state: State, condition: Tensor | None) -> State:
        """The bias and the shears undone."""
        y = state[0] if self.bias is None else state[0] - self._offset(state[0])
        return (self._sheared(y, self.weight.shears(WEIGHT_BITS)[::-1], -1),)

    def exact(self, bits: int) -> Step:
        """The step on another grid."""
        (module,) = self.modules
        return LiftingStep(self.name, module, self.weight, self.bias, bits)

    def _sheared(self, x: Tensor, shears: Sequence[tuple[int, Tensor]], sign: int) -> Tensor:
        check_input(self.name, x, self.weight.size, None, self.weight.reference)
        halves = list(x.split(self.weight.halves, 1))
        for changed, matrix in shears:
            product = round_to_grid(_product(matrix, halves[1 - changed]), self.bits)
            halves[changed] = halves[changed].add(product, alpha=sign)
        return torch.cat(halves, 1)

    def _offset(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return round_to_grid(self.bias, self.bits).view(-1, *(1,) * (x.dim() - 2))


def lifting_step(block: Any, weight: LiftingWeight, bias: Tensor | None) -> Step:  # noqa: ANN401
    """The step of a linear block, whose exact form is a `LiftingStep`."""
    return LiftedStep(block, lambda bits: LiftingStep(type(block).__name__, block, weight, bias, bits))


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """The matrix times x at every position."""
    if x.dim() == 2:
        return functional.linear(x, matrix)
    # A view of the matrix for each sample: in float64 on a CPU no slower than a convolution, and for any axes.
    return torch.bmm(matrix.expand(len(x), -1, -1), x.flatten(2)).unflatten(2, x.shape[2:])
