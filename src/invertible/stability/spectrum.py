"""Singular values of the Jacobian: by how much a map stretches and squeezes around each sample."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.errors import ConfigError, choose, require_positive
from invertible.stability.batches import rows_of
from invertible.stability.in_double import InDouble
from invertible.stability.lanczos import Largest, largest_singular_values
from invertible.stability.products import Linearization, NotDifferentiableError, SolvedInverse, norm
from invertible.stability.subject import bijection_of, check_batch, condition_of, differentiable, seeded

# Up to as many dimensions "auto" computes whole Jacobians: each takes D backward passes and an SVD of D^3 operations.
DENSE = 400
# Rows of one backward pass for dense Jacobians.
ROWS = 256
# |J_(f^-1) J_f v - v|_2 / |v|_2 above which the inverse's Jacobian is not taken for that of the inverse.
MISMATCH = 1e-2


@dataclass(frozen=True)
class Spectrum:
    """Singular values of J_f(x) for each sample.

    Attributes:
        largest: the k largest, largest first, float64 of shape (B, k); NaN where the sample or its image is not finite.
        smallest: the k smallest, smallest first, likewise.
        log_det: what the map says of log|det J|, of shape (B,).
        log_det_error: |sum log s_i - log_det| over all singular values, (B,); NaN where they are not all known, that
            is, for `method="iterative"`.
        converged: samples whose values met the tolerance, boolean of shape (B,). Values that did not are bounds only.
        method: `"dense"`: all singular values by an SVD of J; or `"iterative"`: `largest` is then a lower bound of the
            k largest values, and `smallest` an upper bound of the k smallest ones, up to rounding.
        iterations: products with J and as many with J^T, and the same for the inverse; 0 for dense.
        dtype: in which the products were computed.
        note: what to know about the values; empty if nothing.
    """

    largest: Tensor
    smallest: Tensor
    log_det: Tensor
    log_det_error: Tensor
    converged: Tensor
    method: str
    iterations: tuple[int, int]
    dtype: torch.dtype
    note: str = ""

    @property
    def condition_number(self) -> Tensor:
        """s_max / s_min per sample, (B,): by how much f and then f^-1 can multiply a relative error."""
        return self.largest[:, 0] / self.smallest[:, 0]

    @property
    def non_finite(self) -> int:
        """Number of samples without finite values."""
        return int((~self.condition_number.isfinite()).sum())

    @property
    def worst_index(self) -> int:
        """The sample with the largest condition number; one without finite values comes first."""
        return int(self.condition_number.nan_to_num(nan=math.inf).argmax())

    @property
    def worst_log_det_error(self) -> float:
        """Largest disagreement of sum log s_i with the map's log_det, NaN if none is known."""
        known = self.log_det_error[~self.log_det_error.isnan()]
        return known.max().item() if len(known) else math.nan

    def __str__(self) -> str:
        """A few lines to print."""
        worst = self.worst_index
        high, low = self.largest[worst, 0], self.smallest[worst, 0]
        sides = ("=", "=") if self.method == "dense" else (">=", "<=")
        lines = [
            f"{len(self.largest)} samples, {self.method}, {str(self.dtype).removeprefix('torch.')}: "
            f"condition number {self.condition_number.nanmedian():.3g} (median), "
            f"{self.condition_number[worst]:.3g} (worst, sample {worst})",
            f"sample {worst}: largest singular value {sides[0]} {high:.4g}, smallest {sides[1]} {low:.4g}",
        ]
        if self.method == "dense":
            lines.append(f"log_det off by {self.worst_log_det_error:.1e} at most")
        else:
            done = int(self.converged.sum())
            lines.append(
                f"{done} of {len(self.converged)} converged in {self.iterations[0]} + {self.iterations[1]} steps"
            )
        if self.non_finite:
            lines.append(f"{self.non_finite} samples not finite")
        return "\n".join([*lines, *([self.note] if self.note else [])])


def singular_values(
    f: nn.Module,
    x: Tensor,
    k: int = 1,
    *,
    condition: Tensor | None = None,
    method: str = "auto",
    iterations: int = 64,
    tolerance: float = 1e-3,
    generator: torch.Generator | int | None = None,
) -> Spectrum:
    """The k largest and the k smallest singular values of J_f(x), sample by sample.

    Dense: all of J, D backward passes a sample, and its SVD. Iterative: the largest by Golub-Kahan bidiagonalisation
    with J v and J^T w; the smallest as 1/largest of the Jacobian of f^-1 at f(x), by the same means. Small singular
    values are never sought as the small end of J's spectrum, where iterations stall and rounding drowns them. All in
    float64, on a copy of the model, where it runs in float64.

    Iterative values are lower bounds of the largest and upper bounds of the smallest: the condition number is at least
    what is reported. If autograd cannot differentiate f^-1 (an iteration without grad), its products come from linear
    systems in J_f, which is good up to condition numbers of some 1e4.

    Args:
        f: a `Bijection`, or a `Flow`, whose bijection is measured; it comes out unchanged.
        x: data, shape (B, ...), rows independent.
        k: how many at either end, 1 to D.
        condition: condition of x, of B rows; labels for a flow with classes.
        method: `"dense"`, `"iterative"`, or `"auto"`: dense up to 400 dimensions.
        iterations: of either side, at most, for `"iterative"`.
        tolerance: relative, of the residual |J^T u - s v|; the error of s is then some tolerance^2.
        generator: a generator or a seed for the first vectors; seed 0 if `None`.

    Raises:
        ConfigError: if `f` has no bijection, or an option is out of its range.
        ShapeError: if x is not what f takes, or f(x) has another number of values than x.

    Example:
        >>> spectrum = singular_values(flow, x)
        >>> print(spectrum)
        >>> spectrum.condition_number.max()
    """
    owner = "singular_values"
    bijection = bijection_of(owner, f)
    check_batch(owner, "x", x, condition)
    dimensions = x[0].numel()
    require_positive(owner, k=k, iterations=iterations)
    if k > dimensions or not tolerance > 0:
        raise ConfigError(
            f"{owner}: expected k of at most {dimensions}, the dimensions of x, and tolerance > 0, got k={k} and "
            f"tolerance={tolerance}."
        )
    dense = choose(owner, "method", method, {"auto": dimensions <= DENSE, "dense": True, "iterative": False})
    source = seeded(generator)
    seed = int(torch.randint(2**31, (), generator=source, device=source.device))
    with differentiable(f, seed):
        subject = InDouble(owner, bijection, x, condition_of(f, bijection, condition, x))
        start = torch.randn(subject.x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        if dense:
            return _dense(subject, k)
        return _iterative(subject, k, start.to(subject.x), iterations, tolerance)


def _dense(subject: InDouble, k: int) -> Spectrum:
    dimensions = subject.x[0].numel()
    values = [torch.empty(0, dimensions, dtype=torch.float64)]
    if len(subject.rows):
        values = [_svd(subject, rows) for rows in subject.rows.split(max(1, ROWS // dimensions))]
    everywhere = subject.all_rows(torch.cat(values))
    resolved = everywhere[:, -1] > dimensions * torch.finfo(subject.x.dtype).eps * everywhere[:, 0]
    note = subject.note
    if not note and not bool(resolved[subject.rows.cpu()].all()):
        note = "the smallest singular values of some samples are lost to rounding; the true ones may be smaller"
    return Spectrum(
        everywhere[:, :k],
        everywhere[:, -k:].flip(1),
        subject.log_det,
        (everywhere.log().sum(1) - subject.log_det).abs(),
        resolved,
        "dense",
        (0, 0),
        subject.x.dtype,
        note,
    )


def _svd(subject: InDouble, rows: Tensor) -> Tensor:
    """All singular values of these samples, (len(rows), D), NaN where a Jacobian is not finite."""
    x, condition = subject.some(rows)
    dimensions = subject.x[0].numel()
    one_hot = torch.eye(dimensions, dtype=x.dtype, device=x.device)
    parts = []
    for each in torch.arange(len(x) * dimensions, device=x.device).split(ROWS):
        sample, coordinate = each // dimensions, each % dimensions
        linear = Linearization(subject.bijection, x[sample], rows_of(condition, sample))
        parts.append(linear.vjp(one_hot[coordinate].reshape(linear.y.shape)).reshape(len(each), dimensions))
    jacobian = torch.cat(parts).reshape(len(x), dimensions, dimensions).cpu().double()
    values = torch.linalg.svdvals(jacobian.nan_to_num(0.0, 0.0, 0.0))
    return torch.where(jacobian.isfinite().flatten(1).all(1)[:, None], values, math.nan)


def _iterative(subject: InDouble, k: int, start: Tensor, iterations: int, tolerance: float) -> Spectrum:
    subject.keep_invertible()
    unknown = torch.full((subject.count,), math.nan, dtype=torch.float64)
    largest = smallest = unknown[:, None].expand(-1, k)
    converged, steps, notes = torch.zeros(subject.count, dtype=torch.bool), (0, 0), [subject.note]
    if len(subject.rows):
        x, condition = subject.some(subject.rows)
        start = start[subject.rows]
        forward = Linearization(subject.bijection, x, condition)
        high = largest_singular_values(forward.jvp, forward.vjp, start, k, iterations, tolerance)
        low, note = _inverse_side(subject.bijection, forward, condition, (start, k, iterations, tolerance))
        converged[subject.rows.cpu()] = high.converged & low.converged
        largest, smallest = subject.all_rows(high.values), subject.all_rows(1 / low.values)
        steps, notes = (high.iterations, low.iterations), [subject.note, note]
    note = "; ".join(each for each in notes if each)
    log_det = subject.log_det
    return Spectrum(largest, smallest, log_det, unknown, converged, "iterative", steps, subject.x.dtype, note)


def _inverse_side(
    bijection: Bijection, forward: Linearization, condition: Tensor | None, options: tuple[Tensor, int, int, float]
) -> tuple[Largest, str]:
    """The largest singular values of the inverse's Jacobian; not converged where that does not undo f's."""
    start, k, iterations, tolerance = options
    note = ""
    try:
        inverse = Linearization(bijection.inverse, forward.y, condition)
    except NotDifferentiableError:
        inverse = SolvedInverse(forward)
        note = "autograd cannot differentiate the inverse: its products come from linear systems in the Jacobian of f"
    image = forward.jvp(start)
    agrees = norm(inverse.jvp(image) - start) <= MISMATCH * norm(start)
    low = largest_singular_values(inverse.jvp, inverse.vjp, start.reshape(image.shape), k, iterations, tolerance)
    if isinstance(inverse, SolvedInverse):
        agrees &= inverse.converged
    agrees = agrees.cpu()
    if not bool(agrees.all()):
        count = int((~agrees).sum())
        note += f"{'; ' if note else ''}{count} samples: the Jacobian of the inverse does not undo that of f, so that "
        note += "the inverse is lost or not the inverse, and their smallest values mean little"
    return dataclasses.replace(low, converged=low.converged & agrees), note
