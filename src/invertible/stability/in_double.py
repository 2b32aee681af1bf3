"""A map in float64, for what float32 cannot resolve."""

import math

import torch
from torch import Tensor

from invertible.bijection import Bijection
from invertible.errors import ShapeError
from invertible.shapes import finite_rows
from invertible.stability.batches import cast_floating, rows_of
from invertible.stability.control import Control
from invertible.stability.passage import send


class InDouble:
    """A map and a batch in float64, on a copy, if the map runs in float64; and which samples have finite images.

    Args:
        owner: who asks, the first word of messages.
        bijection: the map.
        x: the batch, (B, ...).
        condition: its condition, of B rows.

    Attributes:
        bijection, x, condition: in float64, or as given.
        note: why they are not in float64, empty if they are.
        rows: the samples with a finite image, their indices.
        log_det: of all samples, float64 of shape (B,).

    Raises:
        ShapeError: if f(x) has another number of values than x.
    """

    def __init__(self, owner: str, bijection: Bijection, x: Tensor, condition: Tensor | None) -> None:
        self.note = ""
        self._take(bijection, x, condition)
        # Whatever initialises itself from a first batch does so before the copy is made.
        passage = send(bijection, x.detach(), condition)
        control = Control(bijection)
        if control.bijection is not None:
            self._take(control.bijection, x.double(), cast_floating(condition, torch.float64))
            try:
                passage = send(self.bijection, self.x, self.condition)
            except (RuntimeError, TypeError, ShapeError) as error:
                self._take(bijection, x, condition)
                control.note = f"the model does not run in float64: {str(error).splitlines()[0]}"
        if self.x.dtype != torch.float64:
            eps = torch.finfo(self.x.dtype).eps
            self.note = f"{control.note}; singular values below {eps:.0e} of the largest are rounding"
        if passage.output[0].numel() != x[0].numel() and bool(passage.output.isfinite().any()):
            raise ShapeError(
                f"{owner}: expected f(x) of as many values as x, got {tuple(passage.output.shape)} for "
                f"{tuple(x.shape)}. A bijection keeps all of them."
            )
        finite = finite_rows(passage.output) & passage.log_det.isfinite()
        self.rows = finite.nonzero().flatten()
        self.count, self.log_det = len(x), passage.log_det.cpu().double()

    def _take(self, bijection: Bijection, x: Tensor, condition: Tensor | None) -> None:
        self.bijection, self.x, self.condition = bijection, x.detach(), condition

    def some(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """The batch's rows and their condition."""
        return self.x[rows], rows_of(self.condition, rows)

    def keep_invertible(self) -> None:
        """Leave out the samples that do not come back, for no Jacobian of the inverse is known there."""
        if len(self.rows):
            x, condition = self.some(self.rows)
            back = send(self.bijection.inverse, send(self.bijection, x, condition).output, condition).output
            self.rows = self.rows[finite_rows(back)]

    def all_rows(self, found: Tensor) -> Tensor:
        """Values of the finite samples, among NaN for the others."""
        everywhere = found.new_full((self.count, *found.shape[1:]), math.nan)
        everywhere[self.rows.cpu()] = found
        return everywhere
