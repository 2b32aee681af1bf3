"""The one operation that algebraically reversible solvers consist of, its inverse, and its gradient on the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from invertible.solvers.ode.one_step import OneStep
from invertible.solvers.ode.solver import Field, State

Dtypes = tuple[torch.dtype, ...]


class Pair(NamedTuple):
    """What a reversible solver moves: two states, kept in float64 where the device has it."""

    first: State
    second: State


class Gradients(NamedTuple):
    """Of a loss.

    Attributes:
        pair: with respect to the two states.
        parameters: with respect to each parameter, so far; `None` for 0.
    """

    pair: Pair
    parameters: list[Tensor | None]


@dataclass(frozen=True)
class Kick:
    """factor Psi_h(t, b): what the field adds.

    Attributes:
        method: Psi.
        time: t.
        size: h.
        factor: its factor.
    """

    method: OneStep
    time: float
    size: float
    factor: float

    def __call__(self, field: Field, state: State) -> State:
        """Psi_h(t, state), without the factor."""
        return self.method.increment(field, self.time, state, self.size)


@dataclass(frozen=True)
class Shear:
    """a' = keep a + mix b + factor Psi(b), b' = b, with the inverse a = (a' - mix b - factor Psi(b))/keep.

    Attributes:
        active: which state of the pair is a, 0 or 1.
        keep: not 0.
        mix: may be 0.
        kick: `None` for none.
    """

    active: int
    keep: float = 1.0
    mix: float = 0.0
    kick: Kick | None = None

    def run(self, field: Field, pair: Pair, dtypes: Dtypes) -> Pair:
        """The shear; the field sees numbers of `dtypes`."""
        a, b = pair[self.active], pair[1 - self.active]
        change = None if self.kick is None else self.kick(field, cast(b, dtypes))
        return self._put(self._added(tuple(x * self.keep for x in a) if self.keep != 1 else a, b, change, 1.0), b)

    def invert(self, field: Field, pair: Pair, dtypes: Dtypes) -> Pair:
        """The inverse, up to rounding."""
        a, b = pair[self.active], pair[1 - self.active]
        change = None if self.kick is None else self.kick(field, cast(b, dtypes))
        return self._put(self._recovered(a, b, change), b)

    def back(
        self,
        field: Field,
        pair: Pair,
        dtypes: Dtypes,
        gradients: Gradients,
        parameters: Sequence[Tensor],
        known: State | None = None,
    ) -> tuple[Pair, Gradients]:
        """The pair before the shear and the gradients with respect to it, from those after it.

        The field is evaluated once: what recovers a is also the graph whose vector-Jacobian product is needed.

        Args:
            field: v.
            pair: after the shear.
            dtypes: what the field sees.
            gradients: with respect to that pair.
            parameters: tensors with gradients on which the field depends.
            known: a before the shear, where it need not be recovered.
        """
        a, b = pair[self.active], pair[1 - self.active]
        above, passive = gradients.pair[self.active], gradients.pair[1 - self.active]
        totals, change = gradients.parameters, None
        if self.mix:
            passive = tuple(torch.add(g, up, alpha=self.mix) for g, up in zip(passive, above, strict=True))
        if self.kick is not None:
            leaves = tuple(x.detach().requires_grad_() for x in cast(b, dtypes))
            with torch.enable_grad():
                change = self.kick(field, leaves)
            found = _products(change, above, self.kick.factor, (*leaves, *parameters))
            passive = tuple(g if new is None else g + new for g, new in zip(passive, found, strict=False))
            totals = _accumulated(totals, found[len(leaves) :])
            change = tuple(x.detach() for x in change)
        before = self._recovered(a, b, change) if known is None else known
        above = tuple(g * self.keep for g in above) if self.keep != 1 else above
        return self._put(before, b), Gradients(self._put(above, passive), totals)

    def _recovered(self, a: State, b: State, change: State | None) -> State:
        rest = self._added(a, b, change, -1.0)
        return tuple(x / self.keep for x in rest) if self.keep != 1 else rest

    def _added(self, a: State, b: State, change: State | None, sign: float) -> State:
        if self.mix:
            a = tuple(torch.add(x, y, alpha=sign * self.mix) for x, y in zip(a, b, strict=True))
        if change is not None and self.kick is not None:
            factor = sign * self.kick.factor
            a = tuple(torch.add(x, moved.to(x.dtype), alpha=factor) for x, moved in zip(a, change, strict=True))
        return a

    def _put(self, a: State, b: State) -> Pair:
        return Pair(a, b) if self.active == 0 else Pair(b, a)


def cast(state: State, dtypes: Dtypes) -> State:
    """The state in other dtypes."""
    return tuple(x.to(dtype) for x, dtype in zip(state, dtypes, strict=True))


def _products(change: State, above: State, factor: float, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """factor above^T d change/d input, for every input; `None` for 0."""
    terms = [(y, g.to(y.dtype) * factor) for y, g in zip(change, above, strict=True) if y.requires_grad]
    if not terms:
        return [None] * len(inputs)
    outputs, given = zip(*terms, strict=True)
    return gradients_of(outputs, inputs, given)


def gradients_of(outputs: Sequence[Tensor], inputs: Sequence[Tensor], given: Sequence[Tensor]) -> list[Tensor | None]:
    """Vector-Jacobian products; what an input was computed from keeps its graph, which is not ours to free."""
    keeps = any(x.grad_fn is not None for x in inputs)
    return list(torch.autograd.grad(outputs, inputs, given, retain_graph=keeps, allow_unused=True))


def _accumulated(totals: list[Tensor | None], found: Sequence[Tensor | None]) -> list[Tensor | None]:
    # In place, on copies of one's own: autograd may hand out the same tensor twice.
    for index, new in enumerate(found):
        total = totals[index]
        if new is not None and total is None:
            totals[index] = new.clone()
        elif new is not None and total is not None:
            total.add_(new)
    return totals
