"""The way of a reversible solver from beginning to end, step by step, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from invertible.errors import ConfigError
from invertible.solvers.ode.shear import Dtypes, Gradients, Pair, Shear, gradients_of
from invertible.solvers.ode.solver import Field, State
from invertible.solvers.ode.surroundings import Autocast, Noise

# Seeds of a step's evaluations do not meet those of its neighbours.
SHEARS_A_STEP = 8


@runtime_checkable
class Scheme(Protocol):
    """An algebraically reversible solver.

    Attributes:
        steps: number of steps N.
    """

    @property
    def steps(self) -> int:
        """Number of steps N."""
        ...

    def begin(self, field: Field, time: float, state: State) -> Pair:
        """The pair at the beginning, differentiable."""
        ...

    def shears(self, index: int, start: float, size: float) -> Sequence[Shear]:
        """The shears of step `index`, of size h from time start + index h."""
        ...


@dataclass(frozen=True)
class Passage:
    """A field solved by a scheme over a span of time.

    Attributes:
        scheme: the solver.
        field: v.
        start: t at the beginning.
        size: h.
        dtypes: of the state's tensors, as the field sees them.
        autocast: as it was at the call.
        noise: random numbers of the field.
    """

    scheme: Scheme
    field: Field
    start: float
    size: float
    dtypes: Dtypes
    autocast: Autocast
    noise: Noise

    def begin(self, state: State) -> Pair:
        """The pair at the beginning, in the dtype in which it is carried."""
        with self.noise.of(0):
            pair = self.scheme.begin(self.field, self.start, state)
        return Pair(*(tuple(x.to(carrier(x)) for x in each) for each in pair))

    def end(self, pair: Pair) -> State:
        """The solution."""
        return tuple(x.to(dtype) for x, dtype in zip(pair.first, self.dtypes, strict=True))

    def step(self, index: int, pair: Pair) -> Pair:
        """One step."""
        return self.within(index, pair)[-1]

    def within(self, index: int, pair: Pair) -> list[Pair]:
        """The pair before a step, after its first shear, and so on to its end."""
        pairs = [pair]
        for place, shear in enumerate(self._shears(index)):
            with self.noise.of(_evaluation(index, place)):
                pairs.append(shear.run(self.field, pairs[-1], self.dtypes))
        return pairs

    def back(
        self,
        index: int,
        pair: Pair,
        gradients: Gradients,
        parameters: Sequence[Tensor],
        known: Sequence[Pair] | None = None,
    ) -> tuple[Pair, Gradients]:
        """One step backward, of the pair and of the gradients.

        Args:
            index: of the step.
            pair: after the step.
            gradients: with respect to it.
            parameters: tensors on which the field depends.
            known: what `within` gave; where it is missing the pairs are recovered.
        """
        shears = self._shears(index)
        for place in reversed(range(len(shears))):
            shear = shears[place]
            before = None if known is None else known[place][shear.active]
            pair = pair if known is None else known[place + 1]
            with self.noise.of(_evaluation(index, place)):
                pair, gradients = shear.back(self.field, pair, self.dtypes, gradients, parameters, before)
        return pair, gradients

    def back_to_state(self, state: State, gradients: Gradients, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients with respect to the initial state and the parameters, from those at the first pair."""
        leaves = tuple(x.detach().requires_grad_() for x in state)
        with torch.enable_grad():
            pair = self.begin(leaves)
        terms = [
            (x, g)
            for each, above in zip(pair, gradients.pair, strict=True)
            for x, g in zip(each, above, strict=True)
            if x.requires_grad
        ]
        outputs, given = zip(*terms, strict=True)
        found = gradients_of(outputs, (*leaves, *parameters), given)
        for index, new in enumerate(found[len(leaves) :]):
            so_far = gradients.parameters[index]
            gradients.parameters[index] = new if so_far is None else so_far if new is None else so_far + new
        return [*found[: len(leaves)], *gradients.parameters]

    def _shears(self, index: int) -> Sequence[Shear]:
        return self.scheme.shears(index, self.start, self.size)


def _evaluation(index: int, place: int) -> int:
    return 1 + SHEARS_A_STEP * index + place


def carrier(x: Tensor) -> torch.dtype:
    """The dtype in which a solver carries its pair: float64, so that walking back loses no digit of float32."""
    has_float64 = x.device.type != "mps"
    return torch.float64 if has_float64 else torch.promote_types(x.dtype, torch.float32)


class Declared:
    """A field that sees to it, once, that it depends on no tensors with gradients but the given ones.

    Args:
        owner: of the message.
        field: v.
        parameters: the given ones.
    """

    def __init__(self, owner: str, field: Field, parameters: Sequence[Tensor]) -> None:
        self.owner, self.field, self.parameters, self.seen = owner, field, parameters, False

    def __call__(self, t: Tensor, state: State) -> State:
        """v(t, state).

        Raises:
            ConfigError: if gradients would be lost.
        """
        slope = self.field(t, state)
        if not self.seen and torch.is_grad_enabled():
            self.seen = True
            missing = _undeclared(slope, (*state, *self.parameters))
            if missing is not None:
                raise ConfigError(
                    f"{self.owner}: expected parameters to hold all tensors with gradients on which the field depends, "
                    f"got none of shape {tuple(missing.shape)}, whose gradient would be lost. Pass it to solve(..., "
                    "parameters=...), or detach it."
                )
        return slope


def _undeclared(outputs: State, given: Sequence[Tensor]) -> Tensor | None:
    """A leaf in the outputs' graph that is not among the given tensors, nor behind one of them."""
    leaves, stops = {id(x) for x in given}, {x.grad_fn for x in given if x.grad_fn is not None}
    waiting: list[Any] = [x.grad_fn for x in outputs]
    seen: set[Any] = set(stops)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in leaves:
            return leaf
        waiting += [following for following, _ in node.next_functions]
    return None
