"""What a check of a bijection reports: one line a law, or an error that names the law that failed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.errors import InvertibleError

# The laws in the order in which they are checked, and what to do about one that fails. Rows come first: where rows
# mix, the Jacobian of one sample means nothing.
LAWS = {
    "rows independent": "Compute every sample from its own row alone: no mean, sum or normalisation over axis 0.",
    "shape and dtype kept": "Return (result, log_det): a result of the input's dtype, device and number of elements, "
    "and log_det of shape (batch,), in float32 at least.",
    "input kept": "Do not change the input or the condition in place.",
    "round trip": "Undo forward's steps in reverse order, with the same numbers.",
    "log_det": "Sum log|dy_i/dx_i| over all axes but the first, from the very numbers that scale x.",
    "inverse log_det": "Return minus forward's log_det at the recovered x.",
    "gradients": "Look for detach, no_grad, .data or changes in place.",
    "reconstruct": "Rebuild y and log_det from x with the graph on, or delete reconstruct and inherit the default.",
    "parts": "Let forward and inverse call forward_parts and inverse_parts.",
    "bounds": "Return math.inf for what is not proven.",
    "claims": "Drop the claim.",
}


@dataclass(frozen=True)
class Measurement:
    """One law, measured on a batch.

    Attributes:
        law: name of the law, a key of `LAWS`.
        dtype: dtype in which the block ran.
        what: the equation that was measured.
        measured: the error of the worst sample, relative to 1 + |x| + |y|, or a ratio for bounds; NaN if skipped.
        tolerance: the largest figure that passes.
        sample: index of the worst sample, `None` where samples are not told apart.
        skipped: why the law was not checked, empty if it was.
    """

    law: str
    dtype: torch.dtype
    what: str
    measured: float
    tolerance: float
    sample: int | None = None
    skipped: str = ""

    @property
    def passed(self) -> bool:
        """Whether the law holds or was skipped; a figure that is not finite never holds."""
        return bool(self.skipped) or self.measured <= self.tolerance


@dataclass(frozen=True)
class CheckReport:
    """What `check_bijection` measured; `print` shows it as a table.

    Attributes:
        block: name of the block's class.
        measurements: one entry an equation, in the order of the laws, the first dtype first.
    """

    block: str
    measurements: tuple[Measurement, ...]

    @property
    def passed(self) -> bool:
        """Whether every law that was checked holds."""
        return all(each.passed for each in self.measurements)

    @property
    def skipped(self) -> tuple[Measurement, ...]:
        """What was not checked."""
        return tuple(each for each in self.measurements if each.skipped)

    def __str__(self) -> str:
        rows = [("law", "dtype", "equation", "measured", "tolerance")]
        for each in self.measurements:
            dtype = str(each.dtype).removeprefix("torch.")
            figures = (each.skipped, "") if each.skipped else (f"{each.measured:.1e}", f"{each.tolerance:.1e}")
            rows.append((each.law, dtype, each.what, figures[0], figures[1]))
        # The reason of a skipped law stands alone in its line and may run on.
        widths = [max(len(row[column]) for row in rows if row[-1]) for column in range(5)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join((f"{self.block}: {'passed' if self.passed else 'failed'}", *lines))


class BijectionError(InvertibleError, AssertionError):
    """A block breaks a law of bijections.

    Attributes:
        law: the first law that failed, a key of `LAWS`.
        measurement: the figure that failed, `None` where the law failed before anything could be measured.
        report: what was measured up to there.
    """

    def __init__(
        self, message: str, *, law: str, measurement: Measurement | None = None, report: CheckReport | None = None
    ) -> None:
        super().__init__(message)
        self.law, self.measurement, self.report = law, measurement, report


def broken(block: str, law: str, dtype: torch.dtype, expected: str, got: str) -> BijectionError:
    """The error for a law that failed before anything could be measured."""
    name = str(dtype).removeprefix("torch.")
    return BijectionError(f"{block}, law {law!r} in {name}: expected {expected}, got {got}. {LAWS[law]}", law=law)


def failure(report: CheckReport) -> BijectionError:
    """The error for the last measurement of a report."""
    last = report.measurements[-1]
    where = "" if last.sample is None else f" in sample {last.sample}"
    expected = f"{last.what} within {last.tolerance:.2e}"
    error = broken(report.block, last.law, last.dtype, expected, f"{last.measured:.2e}{where}")
    return BijectionError(str(error), law=last.law, measurement=last, report=report)


def worst(law: str, dtype: torch.dtype, what: str, measured: Tensor, tolerance: Tensor) -> Measurement:
    """The sample that exceeds its tolerance most, or comes nearest to it: figures and tolerances of shape (B,)."""
    measured = measured.detach().double().nan_to_num(nan=torch.inf, posinf=torch.inf)
    tolerance = tolerance.detach().double().expand_as(measured)
    sample = int((measured / tolerance.clamp_min(torch.finfo(torch.float64).tiny)).argmax())
    return Measurement(law, dtype, what, measured[sample].item(), tolerance[sample].item(), sample)
