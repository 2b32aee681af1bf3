"""One look at an inverse: what a batch loses on its way there and back, and what it stands to lose."""

import csv
import io
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

from invertible.bijection import Bijection
from invertible.stability.digits import trusted_digits
from invertible.stability.passage import LOST, send
from invertible.stability.round_trip import round_trip
from invertible.stability.spectrum import singular_values
from invertible.stability.undisturbed import undisturbed


@dataclass(frozen=True)
class InverseCheck:
    """What one check measured on one set.

    Attributes:
        step: number of steps taken before it.
        name: of the set.
        worst: largest relative error of a round trip over samples and directions, `inf` if a sample is lost, NaN if the
            map refuses them all.
        median: median error of x -> f(x) -> f^-1(f(x)).
        lost: samples that are not finite somewhere on the way, in the direction that loses more.
        digits: decimal digits of f^-1(f(x)) to trust in the worst sample, as `stability.trusted_digits` predicts them.
        condition: largest condition number of J_f(x), `inf` if one is not finite, NaN if none was computed.
        samples: size of the set.
        seconds: what the check took.
    """

    step: int
    name: str
    worst: float
    median: float
    lost: int
    digits: float
    condition: float
    samples: int
    seconds: float


def check_inverse(
    bijection: Bijection, x: Tensor, condition: Tensor | None, *, step: int, name: str, spectra: int = 0
) -> InverseCheck:
    """Measure a map on a batch in eval mode, leaving no trace.

    Args:
        bijection: the map.
        x: the batch (B, ...); it is moved to where the map's parameters are.
        condition: its condition, of B rows.
        step: for the record.
        name: for the record.
        spectra: number of samples, the first ones, whose condition numbers to compute.
    """
    start = time.perf_counter()
    like = next(iter(bijection.parameters()), x).detach()
    x = x.to(like)
    condition = None if condition is None else condition.to(like)
    with undisturbed(bijection):
        trips = round_trip(bijection, x, condition)
        with torch.no_grad():
            y = send(bijection.__call__, x, condition).output
        digits = _digits(bijection, y, condition)
        first = None if condition is None else condition[:spectra]
        number = _condition_number(bijection, x[:spectra], y[:spectra], first)
    return InverseCheck(
        step,
        name,
        _larger(trips.data.worst, trips.latent.worst),
        trips.data.median,
        trips.non_finite,
        digits,
        number,
        len(x),
        time.perf_counter() - start,
    )


def _digits(bijection: Bijection, y: Tensor, condition: Tensor | None) -> float:
    """Digits of the worst sample; 0 if one has no finite image."""
    return float(trusted_digits(bijection, y, condition).digits.min()) if bool(y.isfinite().all()) else 0.0


def _condition_number(bijection: Bijection, x: Tensor, y: Tensor, condition: Tensor | None) -> float:
    if not len(x):
        return math.nan
    if not bool(y.isfinite().all()):
        return math.inf
    try:
        numbers = singular_values(bijection, x, condition=condition).condition_number
    except LOST:
        return math.inf
    return float(numbers.nan_to_num(nan=math.inf, posinf=math.inf).max())


def _larger(first: float, second: float) -> float:
    known = [each for each in (first, second) if not math.isnan(each)]
    return max(known, default=math.nan)


def as_csv(checks: Sequence[InverseCheck]) -> str:
    """Checks as a table, one a row, lost inverses as `inf`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [each.name for each in fields(InverseCheck)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _text(value) for key, value in asdict(check).items()} for check in checks)
    return text.getvalue()


def _text(value: float | int | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
