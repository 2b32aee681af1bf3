"""FrEIA's graphs of blocks, run block by block, so that each can be watched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.shapes import zero_log_det
from invertible.stability.adapters.foreign import Checked
from invertible.stability.adapters.levels import cut, joined

Wire = tuple[int, int]
Shapes = Sequence[Sequence[int]]


class FreiaGraph(Checked):
    """A `GraphINN`: every block takes outputs of places before it; the graph's inputs are the first places.

    Args:
        blocks: adapted blocks in an order in which inputs come first.
        shapes: for each block, the shapes of its inputs and of its outputs.
        wires: for each block, its inputs as (place, which of that place's outputs).
        starts: shapes of the graph's inputs.
        ends: where each output of the graph comes from.
        condition_features: width of the condition that holds all conditions.
    """

    def __init__(
        self,
        blocks: Sequence[Bijection],
        shapes: Sequence[tuple[Shapes, Shapes]],
        wires: Sequence[Sequence[Wire]],
        starts: Sequence[Sequence[int]],
        ends: Sequence[Wire],
        condition_features: int,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self._shapes = list(shapes)
        self.wires, self.starts, self.ends, self.condition_features = wires, starts, ends, condition_features

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All blocks in order; several inputs and outputs flattened and side by side."""
        self._check(x, condition)
        total = zero_log_det(x)
        held = {(place, 0): part for place, part in enumerate(_parts(x, self.starts))}
        for index, block in enumerate(self.blocks):
            y, log_det = block(joined([held[wire] for wire in self.wires[index]]), _given(block, condition))
            total = total + log_det
            for channel, part in enumerate(_parts(y, self._shapes[index][1])):
                held[len(self.starts) + index, channel] = part
        return joined([held[end] for end in self.ends]), total

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All blocks backwards."""
        self._check(y, condition)
        total = zero_log_det(y)
        held = dict(zip(self.ends, _parts(y, self._end_shapes()), strict=True))
        for index, block in reversed(list(enumerate(self.blocks))):
            place = len(self.starts) + index
            result = joined([held[place, channel] for channel in range(len(self._shapes[index][1]))])
            inverse: Any = block.inverse
            x, log_det = inverse(result, _given(block, condition))
            total = total + log_det
            held.update(zip(self.wires[index], _parts(x, self._shapes[index][0]), strict=True))
        return joined([held[place, 0] for place in range(len(self.starts))]), total

    def _end_shapes(self) -> list[Sequence[int]]:
        places = [*([shape] for shape in self.starts), *(outputs for _, outputs in self._shapes)]
        return [places[place][channel] for place, channel in self.ends]


def _parts(x: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    return [x] if len(shapes) == 1 else cut(x, shapes)


def _given(block: nn.Module, condition: Tensor | None) -> Tensor | None:
    return condition if block.condition_features else None
