"""Blocks that add to x what does not depend on what they change: y = x + u(x) with u(x + s u(x)) = u(x) for all s."""

from __future__ import annotations

import torch
from torch import Tensor

from invertible.bijection import Bijection, Reconstruction
from invertible.errors import ConfigError
from invertible.memory.step import State, Step
from invertible.rounding import round_to_grid
from invertible.shapes import zero_log_det
from invertible.steps import BlockStep


class Shear(Bijection):
    """y = x + u(x), where the update u does not see what it changes: u(x + s u(x)) = u(x) for every number s.

    Inverse: x = y - u(y). The Jacobian is I + u'(x) with u'(x)^2 = 0, so that log_det = 0: volume preserving. An
    additive coupling is of this kind; so is one in another basis, and the addition of a gradient to other channels.

    A subclass defines `update`, `shifted` and `shift_`. In constant-memory training, in either direction, the update is
    evaluated once a pass: what inverts the block also rebuilds its graph.

    Attributes:
        has_exact_form: whether u, rounded to a grid of numbers, still does not see what it changes. It takes a change
            of whole channels.
    """

    volume_preserving = True
    has_exact_form = False

    def update(self, x: Tensor) -> tuple[Tensor, ...]:
        """u(x) in whatever coordinates, and what else `shifted` needs."""
        raise TypeError(f"{type(self).__name__}: define update(self, x).")

    def shifted(self, x: Tensor, update: tuple[Tensor, ...], sign: int) -> Tensor:
        """x + sign u, with sign 1 or -1, as a new tensor."""
        raise TypeError(f"{type(self).__name__}: define shifted(self, x, update, sign).")

    def shift_(self, x: Tensor, update: tuple[Tensor, ...], sign: int) -> None:
        """Add sign u to x in place; autograd must save what it saves in `shifted`, in that order."""
        raise TypeError(f"{type(self).__name__}: define shift_(self, x, update, sign).")

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x + u(x)."""
        self.check(x, condition)
        return self.moved(x, 1), zero_log_det(x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y - u(y)."""
        self.check(y, condition)
        return self.moved(y, -1), zero_log_det(y)

    def reconstruct(self, y: Tensor, condition: Tensor | None = None) -> Reconstruction:
        """Recover x and rebuild the graph with one evaluation of u."""
        self.check(y, condition)
        x = y.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        with torch.enable_grad():
            update = self.update(x)
            # Through .data: what the graph of u has seen of x so far is the same for y.
            with torch.no_grad():
                self.shift_(x.data, update, -1)
            return Reconstruction(x, self.shifted(x, update, 1), zero_log_det(y))

    def check(self, x: Tensor, condition: Tensor | None) -> None:
        """Refuse an input of the wrong shape."""
        self._check(x, condition)

    def moved(self, x: Tensor, sign: int) -> Tensor:
        """x + sign u(x)."""
        return self.shifted(x, self.update(x), sign)

    def recovered(self, y: Tensor, sign: int) -> Tensor:
        """x from y = x + sign u(x), on the way saving for a backward pass what x + sign u(x) saves, in that order.

        To subtract an update saves what adding it does, so that y need not be made again.
        """
        x = y.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        # Through .data, as in `reconstruct`.
        self.shift_(x.data, self.update(x), -sign)
        return x

    def steps(self) -> list[Step]:
        """One, which evaluates u once forward and once in its reconstruction, in either direction."""
        return [ShearStep(self)]


class ShearStep(BlockStep):
    """A `Shear`, or its inverse; the state is (x,).

    Args:
        block: the shear.
        sign: 1, or -1 for the inverse.
    """

    changed = (0,)

    def __init__(self, block: Shear, sign: int = 1) -> None:
        super().__init__(block, one_pass=True)
        self.shear, self.sign = block, sign

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """x + sign u(x); `forward` with its hooks for the block itself."""
        if self.sign == 1:
            return (self.shear(state[0])[0],), None
        self.shear.check(state[0], None)
        return (self.shear.moved(state[0], self.sign),), None

    def invert(self, state: State, condition: Tensor | None) -> State:
        """y - sign u(y)."""
        return (self.shear.moved(state[0], -self.sign),)

    def reconstruct(self, state: State, condition: Tensor | None) -> State:
        """The input, from one evaluation of u."""
        return (self.shear.recovered(state[0], self.sign),)

    @property
    def inverted(self) -> Step:
        """The other sign."""
        return ShearStep(self.shear, -self.sign)

    def exact(self, bits: int) -> Step:
        """The shear by u rounded to multiples of 2^-bits, where it has an exact form."""
        if self.shear.has_exact_form:
            return GridShearStep(self.shear, self.sign, bits)
        raise ConfigError(
            f"memory: {self.name} has no exact form, for rounding the state rounds what its update sees. Use "
            "memory='reversible', whose guard notices a loss."
        )


class GridShearStep(ShearStep):
    """A shear by the rounded update, on multiples of 2^-bits in float64, which an inverse returns to the bit.

    Args:
        block: a shear with an exact form.
        sign: 1, or -1 for the inverse.
        bits: binary digits behind the point.
    """

    def __init__(self, block: Shear, sign: int, bits: int) -> None:
        super().__init__(block, sign)
        self.bits, self.one_pass = bits, False

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """x + sign round(u(x))."""
        return (self._moved(state[0], self.sign),), None

    def invert(self, state: State, condition: Tensor | None) -> State:
        """y - sign round(u(y))."""
        return (self._moved(state[0], -self.sign),)

    @property
    def inverted(self) -> Step:
        """The other sign."""
        return GridShearStep(self.shear, -self.sign, self.bits)

    def exact(self, bits: int) -> Step:
        """The step on another grid."""
        return GridShearStep(self.shear, self.sign, bits)

    def _moved(self, x: Tensor, sign: int) -> Tensor:
        # Another memory format gives other bits, and a rebuilt tensor may come in another one.
        update, *others = self.shear.update(x.contiguous())
        return self.shear.shifted(x, (round_to_grid(update, self.bits), *others), sign)
