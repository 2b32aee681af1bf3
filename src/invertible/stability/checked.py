"""What a checked inverse returns, and what it says where the check fails."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

# A block that misses its own output by more than this many square roots of eps, after all refinement, is wrong; a block
# that stretches much may miss it by some by rounding.
WRONG = 64


@dataclass(frozen=True)
class CheckedInverse:
    """An inverse whose error is known. Figures are float64 on the CPU, of shape (B,), `inf` where not finite.

    Attributes:
        x: the inverse, (B, ...), in the dtype asked for.
        residual: |f(x) - y|_2 / |y|_2 of the x returned, verified in `work_dtype`.
        error: estimated |x - f^-1(y)|_2 / |x|_2 of the x returned, its rounding to the dtype included.
        passed: samples that meet the tolerance, by their residual and error before x was rounded; boolean.
        log_det: log|det df^-1/dy|, from the evaluation of f at x.
        unrounded_residual: the residual before x was rounded to its dtype.
        unrounded_error: the estimated error before x was rounded.
        start_residual: the residual of the plain inverse, which `unrounded_residual` never exceeds.
        method: what gave each sample: `"plain"`, `"float64"`, `"shooting"` or `"single-shooting"`.
        changes: |change of x|_2 / |x|_2 in each sweep, of shape (sweeps, B); NaN for samples that took no part.
        blocks: paths of the blocks, in the order in which data pass them.
        block_residuals: |f_k(x_k) - x_{k+1}|_2 / |x_{k+1}|_2 of every block, of shape (blocks, B).
        block_growth: by how much the inverse of every block multiplies the error, of shape (blocks, B).
        tolerance: what was asked.
        asked: the method that was asked for.
        work_dtype: in which residuals were evaluated.
        model_dtype: that of the model, in which the plain inverse was computed.
        raised: the first error that the map raised about a sample, empty if none was.
        note: why residuals were not evaluated in float64, empty if they were.

    Norms are relative to max(|.|_2, median |.|_2), the median over the batch.
    """

    x: Tensor
    residual: Tensor
    error: Tensor
    passed: Tensor
    log_det: Tensor
    unrounded_residual: Tensor
    unrounded_error: Tensor
    start_residual: Tensor
    method: tuple[str, ...]
    changes: Tensor
    blocks: tuple[str, ...]
    block_residuals: Tensor
    block_growth: Tensor
    tolerance: float
    asked: str
    work_dtype: torch.dtype
    model_dtype: torch.dtype
    raised: str = ""
    note: str = ""

    @property
    def sweeps(self) -> int:
        """How many sweeps of corrections were run."""
        return len(self.changes)

    @property
    def limited_by_dtype(self) -> Tensor:
        """Samples that meet the tolerance but for the rounding of x to its dtype; boolean."""
        return self.passed & ((self.error > self.tolerance) | (self.residual > self.tolerance))

    @property
    def worst_index(self) -> int:
        """Index of the sample with the largest error, among those that miss the tolerance if there are any."""
        figure = torch.maximum(self.error, self.unrounded_residual)
        return int(torch.where(self.passed == self.passed.all(), figure, -1.0).argmax())

    @property
    def worst_block(self) -> str | None:
        """Path of the block to blame for the worst sample, `None` for a map without blocks."""
        found = self._blame(self.worst_index)
        return None if found is None else self.blocks[found[0]]

    def _blame(self, sample: int) -> tuple[int, str] | None:
        """The block and what it does: loses the sample, misses its own equation, or multiplies errors."""
        if not self.blocks:
            return None
        residuals, growth = self.block_residuals[:, sample], self.block_growth[:, sample]
        lost = residuals.isinf().nonzero().flatten()
        if len(lost):
            # The way back starts at the last block.
            return int(lost[-1]), "loses the sample on the way back"
        worst = int(residuals.argmax())
        dtype = self.model_dtype if self.method[sample] == "plain" else self.work_dtype
        if float(residuals[worst]) > WRONG * torch.finfo(dtype).eps ** 0.5:
            return worst, f"misses its own output by {float(residuals[worst]):.1e}"
        worst = int(growth.argmax())
        return worst, f"multiplies errors by {float(growth[worst]):.1e} on the way back"

    @property
    def complaint(self) -> str:
        """Which samples miss the tolerance, by how much, which block is to blame, and what to do."""
        count, worst = int((~self.passed).sum()), self.worst_index
        lines = [
            f"checked_inverse: expected x = f^-1(y) with a relative error and residual of at most "
            f"{self.tolerance:.1e}, got {count} of {len(self.passed)} samples that miss it; worst is sample {worst}, "
            f"estimated error {float(self.error[worst]):.1e}, residual {float(self.residual[worst]):.1e} "
            f"({self.method[worst]})."
        ]
        blamed = self._blame(worst)
        if blamed is not None:
            lines.append(f"{self.blocks[blamed[0]]} {blamed[1]}.")
        if self.raised:
            lines.append(f"An error was raised on the way: {self.raised.rstrip('.')}.")
        if self.note:
            lines.append(f"Residuals are those of {self.work_dtype}: {self.note}.")
        lines.append(self._remedy(worst, "" if blamed is None else blamed[1]))
        return " ".join(lines)

    def _remedy(self, worst: int, deed: str) -> str:
        if math.isfinite(float(self.unrounded_error[worst])) and not bool(self.x[worst].isfinite().all()):
            return f"x overflows in {self.x.dtype}: pass dtype=torch.float64."
        if self.asked in ("plain", "single-shooting"):
            return f"That was method={self.asked!r} alone: pass method='auto'."
        if deed.startswith("misses"):
            return "Run invertible.testing.check_bijection on that block: its inverse does not invert it."
        return (
            "Float64 holds no more digits of this inverse: bound the scales (scale='half-sigmoid'), train with a "
            "penalty, keep y closer to the data, or accept a larger tolerance."
        )

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in Counter(self.method).items())
        lines = [
            f"checked inverse of {len(self.passed)} samples: {int(self.passed.sum())} within {self.tolerance:.1e}",
            f"{'':24}{'median':>10}{'worst':>10}",
        ]
        rows = {
            "estimated error of x": self.error,
            "verified residual": self.residual,
            "... before rounding x": self.unrounded_residual,
            "... of the plain inverse": self.start_residual,
        }
        lines += [f"{name:24}{float(each.median()):10.1e}{float(each.max()):10.1e}" for name, each in rows.items()]
        lines.append(f"from: {counts}; sweeps: {self.sweeps}; evaluated in {self.work_dtype}")
        blamed = self._blame(self.worst_index)
        if blamed is not None:
            lines.append(f"worst sample {self.worst_index}: {self.blocks[blamed[0]]} {blamed[1]}")
        if bool(self.limited_by_dtype.any()):
            lines.append(f"{int(self.limited_by_dtype.sum())} samples limited by {self.x.dtype} alone")
        return "\n".join(lines + ([f"note: {self.note}"] if self.note else []))
