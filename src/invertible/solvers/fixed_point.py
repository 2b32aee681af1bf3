"""The solution of y = x + g(x): accelerated, checked sample by sample, with a bound of its error."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.errors import ConfigError, ConvergenceError, DomainError, ShapeError, choose
from invertible.shapes import HALF_PRECISION, at_least_float32, finite_rows, full_precision
from invertible.solvers.accelerated import Limits, accelerated
from invertible.solvers.equation import Equation, Function, Values
from invertible.solvers.newton_krylov import newton_krylov
from invertible.solvers.samples import flat

# In units of eps. A layer of 64 tanh reaches 1/2; deeper networks round more.
DEFAULT_TOLERANCE = 2.0
# Half precision is iterated in float32, so that a fraction of the rounding of x is reachable.
DEFAULT_TOLERANCE_HALF = 0.5
# In units of eps (1 + |x| + |g| + |y|), an allowance in the error bound: 1 for the sums, the rest for g itself, whose
# rounding is not known. With 1 in all, a trained network of 3 layers and L = 0.97 exceeded its bound by 1.3.
ROUNDING = 4
# A sample that stalls within as many tolerances is at the floor of rounding: as good as it gets in its dtype.
AT_THE_FLOOR = 16


@dataclass(frozen=True)
class SolverOptions:
    """How y = x + g(x) is solved.

    Attributes:
        tolerance: iterate until |x + g(x) - y| <= tolerance (|x| + |g(x)| + |y|), 2-norms of each sample. A sample
            that stalls counts as solved at tolerance (1 + |x| + |g(x)| + |y|): close to the origin, rounding inside
            of g leaves no less. If `None`, 2 eps of y's dtype (eps/2 of half precision), and 16 times as much for
            samples that stall.
        max_evaluations: of g, a sample; products with its Jacobian count.
        memory: m of Anderson's acceleration.
        method: `"anderson"`; `"picard"`, the plain iteration x <- y - g(x); `"newton-krylov"`.
        fallback: Newton-Krylov for samples on which the iteration stalls.
        on_failure: `"raise"`, or `"return"` to be told by `FixedPoint.converged`.
    """

    tolerance: float | None = None
    max_evaluations: int = 1000
    memory: int = 10
    method: str = "anderson"
    fallback: bool = True
    on_failure: str = "raise"

    def __post_init__(self) -> None:
        choose("SolverOptions", "method", self.method, dict.fromkeys(("anderson", "picard", "newton-krylov")))
        choose("SolverOptions", "on_failure", self.on_failure, dict.fromkeys(("raise", "return")))
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise ConfigError(f"SolverOptions: expected 0 < tolerance < 1, got {self.tolerance}.")
        if self.max_evaluations < 1 or self.memory < 1:
            raise ConfigError(
                "SolverOptions: expected max_evaluations and memory of at least 1, got "
                f"max_evaluations={self.max_evaluations}, memory={self.memory}."
            )


@dataclass(frozen=True)
class FixedPoint:
    """A solution of y = x + g(x), without a graph.

    Attributes:
        x: (B, ...), of y's dtype.
        residual: |x + g(x) - y|_2 of this very x, (B,), in float32 at least.
        error_bound: at least |x - x*|_2, (B,): (residual + 4 eps (1 + |x| + |g(x)| + |y|))/(1 - L) with the Lipschitz
            constant L that was given, certified but for the allowance for rounding, which a g that computes with much
            larger numbers inside may exceed; infinite without a constant below 1.
        evaluations: of g that the sample took part in, products with its Jacobian included, int64 of shape (B,).
        converged: whether the residual met the tolerance, boolean of shape (B,).
    """

    x: Tensor
    residual: Tensor
    error_bound: Tensor
    evaluations: Tensor
    converged: Tensor


@torch.no_grad()
def solve_residual(
    g: Function,
    y: Tensor,
    *,
    lipschitz: float | None = None,
    start: Tensor | None = None,
    options: SolverOptions = SolverOptions(),
    owner: str = "solve_residual",
) -> FixedPoint:
    r"""Solve y = x + g(x) for x, every sample by itself.

    Anderson's acceleration of the plain iteration x <- y - g(x), in which one evaluation gives both the residual of x
    and the next step. A point is kept only if its true residual is, to rounding, not larger than that of the last one
    kept; else the plain step from there comes next, which for a contraction lowers the residual by L. Samples stop one
    by one, on the true residual, and leave the batch. Where the iteration stalls, Newton's method goes on, which does
    without a contraction.

    Runs without grad and without autocast, which would make g a step function. Half precision is solved in float32
    and rounded; the residual is that of the rounded x.

    Args:
        g: `g(x, rows)`, the function at the samples with the indices `rows` (int64), x of shape (len(rows), ...).
            Called with float32 where y is of half precision.
        y: (B, ...), finite.
        lipschitz: a certified Lipschitz constant of g in the 2-norm, for the bound; `None`, or 1 and more, for none.
        start: where to begin, (B, ...); y if `None`.
        options: tolerance, limits and method.
        owner: first word of messages.

    Returns:
        The solution with its residual, error bound and cost, sample by sample.

    Raises:
        DomainError: if y or start is not finite.
        ConvergenceError: if a sample is not solved, or g is not finite.

    Cost:
        One evaluation of g an iteration and sample, and some 2 m D multiplications beside it.

    References:
        Anderson (1965), J. ACM 12; Walker & Ni (2011), SIAM J. Numer. Anal. 49; Behrmann et al. (2019), arXiv
        1811.00995, algorithm 1 and the bound of section 3 (a posteriori by |x - x*| <= |x + g(x) - y|/(1 - L), since
        x -> x + g(x) expands by 1 - L at least).

    Example:
        >>> found = solve_residual(lambda x, rows: 0.9 * torch.sin(x), torch.randn(8, 3), lipschitz=0.9)
        >>> bool((found.residual < found.error_bound).all())
        True
    """
    _check(owner, y, start)
    y = y.detach()
    half = y.dtype in HALF_PRECISION
    units = DEFAULT_TOLERANCE_HALF if half else DEFAULT_TOLERANCE
    tolerance = options.tolerance or units * torch.finfo(y.dtype).eps
    work = at_least_float32(y)
    contraction = lipschitz if lipschitz is not None and lipschitz < 1 else None
    with full_precision(y):
        equation = Equation(g, work, tolerance, owner)
        x = flat(work if start is None else start.detach().to(work.dtype))
        x, values = _solve(equation, x, options)
        if half:
            x = x.to(y.dtype).to(work.dtype)
            values = equation.at(x, torch.arange(len(y), device=y.device))
    slack = AT_THE_FLOOR if options.tolerance is None else 1
    converged = equation.at_the_floor(values, slack)
    if options.on_failure == "raise" and not bool(converged.all()):
        raise _failure(equation, values, converged, options, y.dtype)
    rounding = ROUNDING * torch.finfo(work.dtype).eps * (1 + values.size)
    bound = torch.full_like(values.residual, math.inf)
    if contraction is not None:
        bound = (values.residual + rounding) / (1 - contraction)
    found = x.reshape(y.shape).to(y.dtype)
    return FixedPoint(found, values.residual, bound, equation.evaluations, converged)


def _check(owner: str, y: Tensor, start: Tensor | None) -> None:
    if torch._C._are_functorch_transforms_active():
        raise ConfigError(
            f"{owner}: cannot be solved under torch.func transforms, since it iterates on values. Use torch.autograd, "
            "which differentiates the solution implicitly."
        )
    if y.dim() < 1 or not y.is_floating_point():
        raise ShapeError(f"{owner}: expected y of shape (batch, ...), floating point, got {tuple(y.shape)}, {y.dtype}.")
    if start is not None and start.shape != y.shape:
        raise ShapeError(f"{owner}: expected start of y's shape {tuple(y.shape)}, got {tuple(start.shape)}.")
    for name, value in (("y", y), ("start", start)):
        finite = torch.ones(0) if value is None else finite_rows(value)
        if not bool(finite.all()):
            sample = int((~finite).nonzero()[0, 0])
            raise DomainError(
                f"{owner}: expected finite {name}, got NaN or infinity in sample {sample}. x + g(x) reaches no such "
                "value; look for the block that produced it."
            )


def _solve(equation: Equation, x: Tensor, options: SolverOptions) -> tuple[Tensor, Values]:
    if options.method == "newton-krylov":
        return newton_krylov(equation, x, torch.arange(len(x), device=x.device), options.max_evaluations)
    memory = options.memory if options.method == "anderson" else 0
    floor = AT_THE_FLOOR if options.tolerance is None else 1
    limits = Limits(options.max_evaluations, floor, leave=options.fallback)
    x, values, stalled = accelerated(equation, x, memory, limits)
    if bool(stalled.any()):
        rows = stalled.nonzero()[:, 0]
        x[rows], there = newton_krylov(equation, x[rows], rows, options.max_evaluations)
        values.set(rows, there)
    return x, values


def _failure(
    equation: Equation, values: Values, converged: Tensor, options: SolverOptions, dtype: torch.dtype
) -> ConvergenceError:
    relative = torch.where(converged, 0, values.residual / (1 + values.size))
    sample = int(relative.argmax())
    worst, iterations = float(relative[sample]), int(equation.evaluations[sample])
    if iterations >= options.max_evaluations:
        remedy = f"Raise max_evaluations (now {options.max_evaluations}), or lower the Lipschitz constant of g."
    elif worst < 1e3 * torch.finfo(dtype).eps:
        remedy = "That is the rounding of g: raise tolerance, or solve in float64."
    else:
        remedy = "No step lowers the residual: x + g(x) may not reach this y. Make g a contraction."
    return ConvergenceError(
        f"{equation.owner}: expected |x + g(x) - y| <= {equation.tolerance:.2g} (1 + |x| + |g(x)| + |y|) in every "
        f"sample; {int((~converged).sum())} of {len(converged)} missed it, the worst, sample {sample}, with "
        f"{worst:.2g} after {iterations} evaluations of g. {remedy}",
        iterations=iterations,
        residual=worst,
    )
