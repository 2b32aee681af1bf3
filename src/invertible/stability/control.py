"""The control in float64, which tells rounding from a wrong inverse."""

import copy
import math

import torch
from torch import Tensor

from invertible.bijection import Bijection, Inverted
from invertible.errors import ShapeError
from invertible.stability.batches import cast_floating
from invertible.stability.blockwise import BlockRoundTrips, block_round_trips
from invertible.stability.records import EXPLOSION, ROUNDING, UNKNOWN, WRONG_INVERSE, ControlSummary
from invertible.stability.round_trip import RoundTrip, round_trip

# Rounding errors shrink by eps64/eps32 = 2e-9 from float32 to float64; an error that shrinks less than this does not
# come from rounding.
SHRINKS = 1e-3


class Control:
    """The same weights in float64.

    Args:
        bijection: the map to copy.
        wanted: make no copy if false.

    Attributes:
        bijection: the copy, `None` if there is none.
        note: why there is none, empty if there is one.
    """

    def __init__(self, bijection: Bijection, *, wanted: bool = True) -> None:
        self.bijection: Bijection | None = None
        self.note = "" if wanted else "switched off"
        dtypes = {parameter.dtype for parameter in bijection.parameters() if parameter.is_floating_point()}
        if wanted and dtypes == {torch.float64}:
            self.note = "the model runs in float64 already"
        elif wanted:
            try:
                self.bijection = copy.deepcopy(bijection).double()
            except (RuntimeError, TypeError) as error:
                self._give_up(error)

    def run(self, chart: Bijection, x: Tensor, condition: Tensor | None) -> tuple[RoundTrip, BlockRoundTrips] | None:
        """Round trips in float64, whole and block by block; `None` where the model does not run in float64."""
        if self.bijection is None:
            return None
        double = Inverted(self.bijection) if isinstance(chart, Inverted) else self.bijection
        x = x.double()
        condition = cast_floating(condition, torch.float64)
        try:
            return round_trip(double, x, condition), block_round_trips(double, x, condition)
        except (RuntimeError, TypeError, ShapeError) as error:
            self._give_up(error)
            return None

    def _give_up(self, error: Exception) -> None:
        self.bijection = None
        self.note = (
            f"the model does not run in float64: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        )


def cause_of(before: Tensor, after: Tensor, tolerance: float) -> str:
    """Why samples failed, from their errors before and in float64, both of shape (B,)."""
    failed = before > tolerance
    if not bool(failed.any()):
        return UNKNOWN
    before, after = before[failed], after[failed].nan_to_num(nan=math.inf, posinf=math.inf)
    stubborn = (after > tolerance) & after.isfinite()
    if bool(stubborn.any()) and bool((after[stubborn] / before[stubborn]).median() > SHRINKS):
        return WRONG_INVERSE
    cured = bool(after.isfinite().all()) and bool(after.median() <= tolerance)
    return ROUNDING if cured else EXPLOSION


def control_summary(before: Tensor, after: Tensor, tolerance: float) -> ControlSummary:
    """The figures of the control: over the samples that failed, if any did."""
    failed = before > tolerance
    if bool(failed.any()):
        before, after = before[failed], after[failed]
    after = after.nan_to_num(nan=math.inf, posinf=math.inf)
    return ControlSummary(
        len(after),
        before.median().item(),
        before.max().item(),
        after.median().item(),
        after.max().item(),
        int(after.isinf().sum()),
    )
