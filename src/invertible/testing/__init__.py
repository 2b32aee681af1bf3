"""The laws of a bijection, checked on a block and a batch.

Knows the protocol only: it judges a block of one's own, or another library's, as it judges this one's.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from invertible.bijection import Bijection
from invertible.errors import ConfigError, ShapeError, choose
from invertible.testing import derivatives, laws, promises
from invertible.testing.report import LAWS, BijectionError, CheckReport, Measurement, failure
from invertible.testing.subject import Subject

__all__ = ["LAWS", "BijectionError", "CheckReport", "Measurement", "check_bijection"]


def check_bijection(
    block: Bijection,
    x: Tensor,
    condition: Tensor | None = None,
    *,
    tolerance: float | None = None,
    claims: Sequence[str] = (),
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    generator: torch.Generator | None = None,
) -> CheckReport:
    """Prove that a block is a bijection with the log-determinant and the gradients that it says it has.

    Laws, in this order: rows independent, shape and dtype kept, input kept, round trip both ways, log_det against the
    dense Jacobian of autograd, inverse log_det, gradients against central differences (of the inverse too, where it
    has a graph), reconstruct against plain autograd, parts, bounds against the Jacobian's singular values, claims.
    Jacobians, gradients and bounds are measured in float64; the Jacobian up to 64 numbers a sample, and the report
    says what was skipped. The block is copied and stays as it is, and so does the random state.

    Errors are relative to 1 + |x| + |y|. The tolerance of each sample is 64 eps(dtype) cond(J at x), at most
    sqrt(eps): an inverse that loses more than half of the digits is none. In float64 a relative drift of 1e-10 is
    caught. Bring the block into a random state first: conditioners start at zero, where couplings prove nothing.

    Args:
        block: any bijection of (B, ...) tensors, in the mode (train or eval) in which it shall be judged.
        x: at least 2 samples inside its domain; 4 to 16 do.
        condition: the condition, if the block takes one.
        tolerance: relative tolerance of values in place of the derived one, for inverses that iterate.
        claims: what to hold the block to beside its own claims, of `"volume-preserving"` (log_det is 0 to the bit),
            `"exact"` (round trips to the bit) and `"isometry"` (all singular values are 1).
        dtypes: floating-point dtypes to run in.
        generator: source of the random directions of derivatives; a fixed seed if `None`.

    Returns:
        What was measured, every law passed; `print` shows it.

    Raises:
        BijectionError: naming the first law that failed, the worst sample, the figure and the tolerance.
        ShapeError: if x is not a batch of at least 2 samples of floating point.
        ConfigError: if a claim is unknown or the tolerance not positive.

    Example:
        >>> print(check_bijection(AffineCoupling(5), torch.randn(8, 5)))
    """
    _check_arguments(x, tolerance, claims)
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    name, found = type(block).__name__, []
    for dtype in dtypes:
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            subject = Subject(block, x, condition, dtype, tolerance)
            for measurement in _measure(subject, claims, generator):
                found.append(measurement)
                if not measurement.passed:
                    raise failure(CheckReport(name, tuple(found)))
    return CheckReport(name, tuple(found))


def _measure(subject: Subject, claims: Sequence[str], generator: torch.Generator) -> Iterator[Measurement]:
    yield from laws.rows_independent(subject)
    yield from laws.shape_and_dtype_kept(subject)
    yield from laws.input_kept(subject)
    yield from laws.round_trip(subject)
    yield from laws.log_det(subject)
    yield from laws.inverse_log_det(subject)
    if subject.dtype == torch.float64:
        yield from derivatives.gradients(subject, generator)
        yield from derivatives.reconstruct(subject, generator)
    yield from laws.parts(subject)
    if subject.dtype == torch.float64:
        yield from promises.bounds(subject)
    yield from promises.claims(subject, claims)


def _check_arguments(x: Tensor, tolerance: float | None, claims: Sequence[str]) -> None:
    if x.dim() < 2 or len(x) < 2 or not x.is_floating_point():
        raise ShapeError(
            f"check_bijection: expected x of a floating-point dtype and shape (batch, ...) with at least 2 samples, "
            f"got {x.dtype} of shape {tuple(x.shape)}. Whether rows are independent shows on two or more."
        )
    if not torch.isfinite(x).all():
        raise ShapeError("check_bijection: expected x to be finite, got NaN or infinity. Remove those samples.")
    if tolerance is not None and not tolerance > 0:
        raise ConfigError(f"check_bijection: expected a positive tolerance, got {tolerance}. Leave it out.")
    for claim in claims:
        choose("check_bijection", "claims", claim, promises.CLAIMS)
