"""Blocks as steps: how a bijection presents itself to the strategies of `memory`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from invertible.memory.step import State, Step
from invertible.partition import Partition, Parts
from invertible.shapes import per_sample_sum

PartsMap = Callable[[Parts, Tensor | None], tuple[Parts, Tensor | None]]


class BlockStep(Step):
    """A block on whole tensors; the state is (x,).

    Args:
        block: the bijection.
        one_pass: whether it has a `reconstruct` of its own.
    """

    def __init__(self, block: Any, *, one_pass: bool = False) -> None:  # noqa: ANN401
        self.block, self.name, self.modules = block, type(block).__name__, (block,)
        self.one_pass, self.lossless = one_pass, bool(block.exact)

    def _given(self, condition: Tensor | None) -> Tensor | None:
        return condition if self.block.condition_features else None

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """`forward`, hooks and all."""
        y, log_det = self.block(state[0], self._given(condition))
        return (y,), log_det

    def invert(self, state: State, condition: Tensor | None) -> State:
        """`inverse`."""
        return (self.block.inverse(state[0], self._given(condition))[0],)

    def reconstruct(self, state: State, condition: Tensor | None) -> State:
        """The input that `reconstruct` recovers."""
        return (self.block.reconstruct(state[0], self._given(condition))[0],)

    @property
    def inverted(self) -> Step:
        """The inverse block's step."""
        step = BlockStep(self.block.inverted)
        step.name, step.lossless = self.name, self.lossless
        return step


class PartsStep(Step):
    """A block with a partition, on its two parts kept apart; the state is (a, b).

    Args:
        block: the bijection, with `forward_parts` and `inverse_parts`.
        forward: its `forward_parts`, or `inverse_parts` for the inverse.
        inverse: the other one.
    """

    def __init__(self, block: Any, forward: PartsMap, inverse: PartsMap) -> None:  # noqa: ANN401
        self.block, self.name, self.modules = block, type(block).__name__, (block,)
        self._forward, self._inverse = forward, inverse

    def _given(self, condition: Tensor | None) -> Tensor | None:
        return condition if self.block.condition_features else None

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """The map on parts."""
        parts, log_slope = self._forward(_pair(state), self._given(condition))
        return parts, summed(log_slope)

    def invert(self, state: State, condition: Tensor | None) -> State:
        """The inverse on parts."""
        return self._inverse(_pair(state), self._given(condition))[0]

    @property
    def inverted(self) -> Step:
        """The step with its two maps exchanged."""
        return PartsStep(self.block, self._inverse, self._forward)


class Cut(Step):
    """(x,) -> (a, b); the inverse merges. No number changes.

    Args:
        split: cuts a tensor in two.
        merge: puts the two together again.
    """

    lossless, name = True, "Cut"

    def __init__(self, split: Callable[[Tensor], Parts], merge: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._split, self._merge = split, merge

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """Split."""
        return self._split(state[0]), None

    def invert(self, state: State, condition: Tensor | None) -> State:
        """Merge."""
        return (self._merge(*_pair(state)),)

    @property
    def inverted(self) -> Step:
        """The merge."""
        return Merge(self._split, self._merge)


class Merge(Step):
    """(a, b) -> (x,): a `Cut` the other way round."""

    lossless, name = True, "Merge"

    def __init__(self, split: Callable[[Tensor], Parts], merge: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._split, self._merge = split, merge

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """Merge."""
        return (self._merge(*_pair(state)),), None

    def invert(self, state: State, condition: Tensor | None) -> State:
        """Split."""
        return self._split(state[0])

    @property
    def inverted(self) -> Step:
        """The split."""
        return Cut(self._split, self._merge)


def between_cuts(partition: Partition, steps: Sequence[Step]) -> list[Step]:
    """Steps on parts, as steps on whole tensors."""
    return [Cut(partition.split, partition.merge), *steps, Merge(partition.split, partition.merge)]


def summed(log_slope: Tensor | None) -> Tensor | None:
    """log_det of shape (B,) from the log-slopes of single numbers."""
    from_numbers = log_slope is not None and log_slope.dim() > 1
    return per_sample_sum(log_slope) if from_numbers and log_slope is not None else log_slope


def _pair(state: State) -> Parts:
    return state[0], state[1]
