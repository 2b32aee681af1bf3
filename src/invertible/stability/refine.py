"""Inverses that are checked, and refined where the check fails."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from invertible.errors import ConfigError, DomainError, NotInvertibleError, choose
from invertible.shapes import finite_rows
from invertible.stability.candidates import FLOAT64, PLAIN, SHOOTING, SINGLE, Search
from invertible.stability.checked import CheckedInverse
from invertible.stability.subject import bijection_of, check_batch, condition_of
from invertible.stability.undisturbed import undisturbed

METHODS = {"auto": (FLOAT64, SHOOTING), PLAIN: (), FLOAT64: (FLOAT64,), SHOOTING: (SHOOTING,), SINGLE: (SINGLE,)}
ON_FAILURE = {"raise": None, "warn": None, "return": None}


@torch.no_grad()
def checked_inverse(
    f: nn.Module,
    y: Tensor,
    tolerance: float | None = None,
    *,
    condition: Tensor | None = None,
    method: str = "auto",
    sweeps: int = 8,
    on_failure: str = "raise",
    dtype: torch.dtype | None = None,
) -> CheckedInverse:
    """x = f^-1(y), with its verified residual and an estimate of its error, refined where the tolerance asks for it.

    `f.inverse` is plain and fast, and says nothing of its error. Here every sample passes two tests in float64, on a
    copy of the weights: the residual |f(x) - y|_2 / |y|_2 is evaluated, because an evaluation in float32 can hide it;
    and the error |x - f^-1(y)|_2 / |x|_2 is estimated to first order, from the residuals of the blocks carried back
    through the Jacobians of their inverses. A small residual alone proves little: where the smallest singular value of
    J_f is sigma, the error may be 1/sigma times as large.

    A sample that fails is inverted in float64. If that is not enough, sweeps of multiple shooting follow (see
    `shooting`), which also mend inverses that are only approximate, such as iterations stopped early. What is worse
    than the plain inverse by its verified residual is dropped, sample by sample.

    The tolerance applies to both numbers *before* x is rounded to its dtype. Rounding x to float32 moves f(x) by up
    to eps sigma_max(J_f) |x|, be x ever so right; x then is the number of float32 that is nearest to the solution, and
    no failure. The result's `error` and `residual` are those of the x that is returned, rounding included, and
    `limited_by_dtype` tells where the tolerance is met but for the rounding; `dtype=torch.float64` keeps all digits.

    The model is taken in eval mode and left as it was. Chains with `memory.Exact`, whose inverse is exact to the bit
    in an arithmetic of their own, are checked in that arithmetic, and so is what cannot run in float64: `note` says so.

    Args:
        f: a `Bijection`, or a flow with one.
        y: what to invert, shape (B, ...), in the model's dtype or in float64, whose digits are all used.
        tolerance: largest relative error and residual, > 0; `None` for half of the digits of the result's dtype, the
            square root of its eps: 3.5e-4 for float32, 1.5e-8 for float64.
        condition: of B rows.
        method: `"auto"`: plain, then float64, then sweeps, as far as the tolerance asks; `"plain"`: check alone;
            `"float64"`, `"shooting"`: this one for all samples, as far as it goes; `"single-shooting"`: corrections of
            x by the residual of the whole map, for comparison and for maps without blocks.
        sweeps: at most so many corrections, >= 1.
        on_failure: `"raise"`, `"warn"` or `"return"`, where a sample misses the tolerance.
        dtype: of the result; that of y if `None`.

    Raises:
        NotInvertibleError: if a sample misses the tolerance, naming the worst one, its block and the remedy.
        DomainError: if y or the condition is not finite, naming the samples.
        ShapeError: if y is not what the map returns.
        ConfigError: naming the argument that is wrong.

    Example:
        >>> found = checked_inverse(flow, y, 1e-6, dtype=torch.float64)
        >>> found.x, found.residual.max(), found.error.max()
    """
    plan = choose("checked_inverse", "method", method, METHODS)
    choose("checked_inverse", "on_failure", on_failure, ON_FAILURE)
    check_batch("checked_inverse", "y", y, condition)
    dtype = y.dtype if dtype is None else dtype
    tolerance = _tolerance(tolerance, dtype, sweeps)
    bijection = bijection_of("checked_inverse", f)
    condition = condition_of(f, bijection, condition, y)
    _check_finite(y=y, condition=condition)
    with undisturbed(bijection):
        search = Search(bijection, y, condition, tolerance)
        for name in plan:
            rows = (~search.passed).nonzero().flatten() if method == "auto" else torch.arange(len(y))
            if len(rows):
                search.refine(name, rows, sweeps, goal=tolerance / 8 if method == "auto" else 0.0)
        found = search.result(dtype, method)
    if not bool(found.passed.all()):
        _complain(found, on_failure)
    return found


def _tolerance(tolerance: float | None, dtype: torch.dtype, sweeps: int) -> float:
    if not dtype.is_floating_point:
        raise ConfigError(f"checked_inverse: expected dtype to be a floating-point one, got {dtype}.")
    if isinstance(sweeps, bool) or sweeps < 1:
        raise ConfigError(f"checked_inverse: expected sweeps of at least 1, got {sweeps}.")
    if tolerance is None:
        return torch.finfo(dtype).eps ** 0.5
    if not 0 < tolerance < math.inf:
        raise ConfigError(f"checked_inverse: expected a tolerance > 0, or None for the dtype's own, got {tolerance}.")
    return float(tolerance)


def _check_finite(**tensors: Tensor | None) -> None:
    for name, x in tensors.items():
        if x is None or bool(x.isfinite().all()):
            continue
        lost = (~finite_rows(x)).nonzero().flatten().tolist()
        shown = ", ".join(map(str, lost[:10])) + (", ..." if len(lost) > 10 else "")
        raise DomainError(
            f"checked_inverse: expected {name} to be finite, got NaN or infinity in {len(lost)} of {len(x)} samples: "
            f"{shown}. Leave them out; what has been lost before cannot be inverted."
        )


def _complain(found: CheckedInverse, on_failure: str) -> None:
    if on_failure == "raise":
        worst = found.worst_index
        raise NotInvertibleError(
            found.complaint, block=found.worst_block, sample=worst, error=float(found.error[worst])
        )
    if on_failure == "warn":
        warnings.warn(found.complaint, stacklevel=4)
