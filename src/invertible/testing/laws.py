"""Laws about values: rows, shapes, round trips, log-determinants, parts."""

from collections.abc import Iterator

import torch
from torch import Tensor

from invertible.errors import DomainError
from invertible.shapes import log_det_dtype, per_sample_sum
from invertible.testing.report import BijectionError, Measurement, broken, worst
from invertible.testing.subject import DENSE, Subject, is_log_det, norm, scale


def rows_independent(subject: Subject) -> Iterator[Measurement]:
    """Rows in another order, beside other rows, and alone, in both directions."""
    law = "rows independent"
    if len(subject.y) != len(subject.x):
        return  # The law of shapes says so.
    for direction, value in (("forward", subject.x), ("inverse", subject.y)):
        run = getattr(subject, direction)
        try:
            result, log_det = run(value, subject.condition)
        except Exception:
            continue  # An inverse that raises breaks the law of round trips.
        whole = (result, log_det) if is_log_det(log_det, value) else (result,)
        error = torch.zeros(len(value), dtype=torch.float64, device=value.device)
        for rows, batch, condition in _other_batches(value, subject.condition):
            try:
                others = run(batch, condition)
            except DomainError:
                continue  # Between two points of the domain there may be one outside it.
            for a, b in zip(whole, others, strict=False):
                difference = norm(a[rows] - b[: len(rows)]).nan_to_num(nan=torch.inf)
                # Rows that are not finite break the laws of round trips and log-determinants.
                error[rows] = torch.maximum(error[rows], torch.where(norm(a[rows]).isfinite(), difference, 0.0))
        error = error / scale(value, *whole).nan_to_num(nan=1.0)
        yield worst(law, subject.dtype, f"{direction} row by row", error, subject.tolerance_at_x)


def _other_batches(value: Tensor, condition: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Batches that begin with the given rows of `value` (indices, batch, condition)."""
    rows = torch.arange(len(value), device=value.device)
    between = (value + value.roll(1, 0)) / 2

    def pick(batch: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return order, batch, None if condition is None else condition[order]

    yield pick(value.flip(0), rows.flip(0))
    for kept in (rows[::2], rows[1::2]):
        strangers = None if condition is None else torch.cat((condition[kept], condition.roll(1, 0)))
        yield kept, torch.cat((value[kept], between)), strangers
    yield pick(value[:1], rows[:1])


def shape_and_dtype_kept(subject: Subject) -> Iterator[Measurement]:
    """Result and log-determinant of both directions."""
    law = "shape and dtype kept"
    _check_pair(subject, "forward", subject.x, (subject.y, subject.log_det))
    try:
        back = subject.inverse(subject.y, subject.condition)
    except BijectionError:
        raise
    except Exception as error:
        raise _raised(subject, "inverse", error) from error
    _check_pair(subject, "inverse", subject.y, back)
    if back[0].shape != subject.x.shape:
        expected, got = f"inverse to return {tuple(subject.x.shape)}", f"{tuple(back[0].shape)}"
        raise broken(subject.name, law, subject.dtype, expected, got)
    yield Measurement(law, subject.dtype, "pairs of both directions", 0.0, 0.0)


def _check_pair(subject: Subject, direction: str, value: Tensor, pair: tuple[Tensor, Tensor]) -> None:
    law, dtype, (result, log_det) = "shape and dtype kept", subject.dtype, pair
    if len(result) != len(value) or result[:1].numel() != value[:1].numel():
        expected = f"{direction} to map {tuple(value.shape)} to as many numbers a sample"
        raise broken(subject.name, law, dtype, expected, f"{tuple(result.shape)}")
    if result.dtype != dtype or result.device != value.device:
        expected = f"{direction} to return {dtype} on {value.device}"
        raise broken(subject.name, law, dtype, expected, f"{result.dtype} on {result.device}")
    if not is_log_det(log_det, value) or log_det.device != value.device:
        expected = f"log_det of {direction} of shape ({len(value)},) and {log_det_dtype(dtype)} on {value.device}"
        got = f"shape {tuple(log_det.shape)} and {log_det.dtype} on {log_det.device}"
        raise broken(subject.name, law, dtype, expected, got)


def input_kept(subject: Subject) -> Iterator[Measurement]:
    """Every call so far has compared its arguments before and after."""
    yield Measurement("input kept", subject.dtype, "arguments after = before", 0.0, 0.0)


def round_trip(subject: Subject) -> Iterator[Measurement]:
    """f^-1(f(x)) = x, and f(f^-1(y)) = y at outputs between those of the batch."""
    law, x, y, condition = "round trip", subject.x, subject.y, subject.condition
    try:
        back, _ = subject.inverse(y, condition)
        yield worst(law, subject.dtype, "f^-1(f(x)) = x", norm(back - x) / scale(x, y), subject.tolerance_at_x)
        between = torch.lerp(y, y.roll(1, 0), 0.25)
        try:
            source, _ = subject.inverse(between, condition)
        except DomainError:
            return
        again, _ = subject.forward(source, condition)
        tolerance = subject.tolerance(subject.condition_number(source, condition))
    except BijectionError:
        raise
    except Exception as error:
        raise _raised(subject, "the round trip", error) from error
    error = norm(again - between) / scale(source, between)
    yield worst(law, subject.dtype, "f(f^-1(y)) = y", error, tolerance)


def log_det(subject: Subject) -> Iterator[Measurement]:
    """Against the dense Jacobian of autograd in float64; in other dtypes against the block in float64."""
    law, what = "log_det", "log_det = log|det J|"
    if subject.dtype == torch.float64 and subject.dimensions > DENSE:
        reason = f"skipped: {subject.dimensions} dimensions, dense Jacobians up to {DENSE}"
        yield Measurement(law, subject.dtype, what, torch.nan, torch.nan, skipped=reason)
        return
    if subject.dtype == torch.float64:
        _, expected = torch.linalg.slogdet(subject.jacobian(subject.x, subject.condition))
    else:
        what, expected = "log_det = that in float64", subject.exact().log_det
    error = (subject.log_det.double() - expected).abs() / scale(subject.x, subject.y, expected[:, None])
    yield worst(law, subject.dtype, what, error, subject.tolerance_at_x)


def inverse_log_det(subject: Subject) -> Iterator[Measurement]:
    """Minus forward's, at the same point."""
    _, back = subject.inverse(subject.y, subject.condition)
    error = (subject.log_det + back).abs().double() / scale(subject.x, subject.y, back[:, None])
    yield worst("inverse log_det", subject.dtype, "log_det(y -> x) = -log_det(x -> y)", error, subject.tolerance_at_x)


def parts(subject: Subject) -> Iterator[Measurement]:
    """`forward_parts` and `inverse_parts` against `forward` and `inverse`, for blocks with a partition."""
    law, cut = "parts", subject.block.partition
    if cut is None:
        yield Measurement(law, subject.dtype, "on parts = on x", torch.nan, torch.nan, skipped="skipped: no partition")
        return
    for direction, value in (("forward", subject.x), ("inverse", subject.y)):
        result, log_det = getattr(subject, direction)(value, subject.condition)
        with subject.world():
            halves, log_slope = getattr(subject.block, f"{direction}_parts")(cut.split(value), subject.condition)
        merged = cut.merge(*halves)
        total = torch.zeros_like(log_det) if log_slope is None else per_sample_sum(log_slope)
        if merged.shape != result.shape or total.shape != log_det.shape:
            expected = f"{direction}_parts of shapes {tuple(result.shape)} and {tuple(log_det.shape)}"
            raise broken(subject.name, law, subject.dtype, expected, f"{tuple(merged.shape)} and {tuple(total.shape)}")
        error = (norm(merged - result) + (total - log_det).abs().double()) / scale(value, result, log_det[:, None])
        yield worst(law, subject.dtype, f"{direction}_parts = {direction}", error, subject.tolerance_at_x)


def _raised(subject: Subject, what: str, error: Exception) -> BijectionError:
    """The error for an exception on the way there and back."""
    got = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
    return broken(subject.name, "round trip", subject.dtype, f"{what} to return", got)
