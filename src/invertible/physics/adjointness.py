"""Whether an operator is what it says: linear, row by row, with the adjoint of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.errors import ConfigError, DomainError, ShapeError, require_positive
from invertible.physics.operator import LinearOperator
from invertible.physics.randomness import seeded, standard_normal

OWNER = "check_operator"
REMEDIES = {
    "deterministic": "Add noise to the data afterwards, with add_noise; draw masks once.",
    "rows independent": "Compute every sample from its own row alone.",
    "linear": "Drop offsets, magnitudes, clamping and normalisation.",
    "adjoint linear": "Drop offsets, magnitudes, clamping and normalisation.",
    "adjoint": "Look for a scale of the Fourier transform, a missing conjugate, or padding that is not folded back; "
    "as_operator(function, x_shape=...) derives the exact one.",
    "normal": "Compute adjoint(forward(x)), or delete the override.",
    "gradient": "Look for detach, no_grad, .data or changes in place.",
}


@dataclass(frozen=True)
class OperatorReport:
    """What `check_operator` measured: relative errors of the worst pair, all within `tolerance`.

    Attributes:
        linearity: of A and A^H, |A(2 u - 3 v) - 2 A u + 3 A v| relative to the terms.
        adjoint: |Re<A x, y> - <x, A^H y>| / (|A x| |y|).
        normal: |normal(x) - A^H A x| / |A^H A x|.
        gradient: |autograd's A^H y - A^H y| / |A^H y|.
        tolerance: what each may be.
    """

    linearity: float
    adjoint: float
    normal: float
    gradient: float
    tolerance: float


def adjoint_error(
    operator: LinearOperator,
    x: Tensor | Sequence[int],
    *,
    trials: int = 5,
    generator: torch.Generator | int | None = 0,
) -> float:
    """The dot-product test: max over random pairs of |Re<A x, y> - <x, A^H y>| / (|A x| |y|).

    y is A x plus noise of its size, for two independent vectors of many numbers are nearly orthogonal, and a wrong
    scale would hardly show. Products are summed in float64. An exact adjoint has an error of a few rounding errors of
    x's dtype: 1e-6 in float32 and 1e-12 in float64 are ample.

    Args:
        operator: A.
        x: a batch whose shape, dtype and device are taken, or a shape (B, c, *spatial).
        trials: number of pairs.
        generator: a generator or a seed.

    Returns:
        The worst error; infinite if A x is zero but <x, A^H y> is not, NaN if a product is not finite.
    """
    require_positive("adjoint_error", trials=trials)
    like = x.detach() if isinstance(x, Tensor) else torch.empty(tuple(x))
    stream, errors = seeded(generator), []
    with torch.no_grad():
        for _ in range(trials):
            x = standard_normal(like, stream)
            image = operator(x)
            noise = standard_normal(image, stream)
            y = image / (_norm(image) or 1) + noise / (_norm(noise) or 1)
            difference = abs(_product(image, y) - _product(x, operator.adjoint(y)))
            scale = _norm(image) * _norm(y)
            errors.append(difference / scale if scale else math.inf * difference if difference else 0.0)
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def check_operator(
    operator: LinearOperator,
    x: Tensor | Sequence[int],
    *,
    tolerance: float | None = None,
    generator: torch.Generator | int | None = 0,
) -> OperatorReport:
    """Check that an operator is linear, has its adjoint, keeps samples apart and can be differentiated.

    Args:
        operator: A.
        x: a batch whose shape, dtype and device are taken, or its shape (B, c, *spatial); of two samples at least, or
            rows cannot be told to be independent.
        tolerance: what every relative error may be; by default 1e-6 in float32 and 1e-12 in float64.
        generator: a generator or a seed.

    Returns:
        What was measured.

    Raises:
        ShapeError: if A x has no row for each sample, or A^H y is not of x's shape or not real.
        DomainError: if A x or A^H y is not finite.
        ConfigError: if one of the laws does not hold, by its name: deterministic, rows independent, linear, adjoint
            linear, adjoint, normal, gradient.

    Example:
        >>> check_operator(Blur(gaussian_kernel(1.0)), torch.zeros(2, 3, 32, 32, dtype=torch.float64))
    """
    like = x.detach() if isinstance(x, Tensor) else torch.empty(tuple(x))
    limit = tolerance if tolerance is not None else 1e-12 if like.dtype == torch.float64 else 1e-6
    stream = seeded(generator)
    with torch.no_grad():
        u, v = standard_normal(like, stream), standard_normal(like, stream)
        y, z = operator(u), operator(v)
        _check_outputs(operator, u, y)
        y, z = y + standard_normal(y, stream) * y.abs().mean(), z + standard_normal(z, stream) * z.abs().mean()
        _require("deterministic", _distance(operator(u), operator(u)), limit)
        _require("rows independent", max(_leak(operator, u, v), _leak(operator.adjoint, y, z)), limit)
        forward, back = _nonlinearity(operator, u, v), _nonlinearity(operator.adjoint, y, z)
        _require("linear", forward, limit)
        _require("adjoint linear", back, limit)
        adjoint = adjoint_error(operator, like, generator=stream)
        _require("adjoint", adjoint, limit)
        normal = _distance(operator.normal(u), operator.adjoint(operator(u)))
        _require("normal", normal, limit)
    gradient = _distance(_pulled_back(operator, u, y), operator.adjoint(y).detach())
    _require("gradient", gradient, limit)
    return OperatorReport(max(forward, back), adjoint, normal, gradient, limit)


def _check_outputs(operator: LinearOperator, x: Tensor, y: Tensor) -> None:
    if y.dim() < 1 or len(y) != len(x):
        raise ShapeError(f"{OWNER}: expected A x to have {len(x)} rows, one a sample, got shape {tuple(y.shape)}.")
    back = operator.adjoint(y)
    if back.shape != x.shape or back.dtype != x.dtype:
        raise ShapeError(
            f"{OWNER}: expected A^H y of x's shape and dtype, {tuple(x.shape)} of {x.dtype}, got "
            f"{tuple(back.shape)} of {back.dtype}. Complex images are real channels: as_real."
        )
    for name, values in (("A x", y), ("A^H y", back)):
        if not values.isfinite().all():
            raise DomainError(f"{OWNER}: expected a finite {name} of finite numbers, got NaN or infinity.")


def _require(law: str, error: float, limit: float) -> None:
    if not error <= limit:
        raise ConfigError(
            f"{OWNER}: expected the law {law!r} to hold within {limit:.0e}, got an error of {error:.1e}. "
            f"{REMEDIES[law]}"
        )


def _leak(apply: Callable[[Tensor], Tensor], first: Tensor, other: Tensor) -> float:
    """How far the last row's result moves when all rows but the last are replaced."""
    replaced = torch.cat((other[:-1], first[-1:]))
    return _distance(apply(replaced)[-1], apply(first)[-1])


def _nonlinearity(apply: Callable[[Tensor], Tensor], u: Tensor, v: Tensor) -> float:
    first, second = apply(u), apply(v)
    error = _norm(apply(2 * u - 3 * v) - (2 * first - 3 * second))
    return _ratio(error, 2 * _norm(first) + 3 * _norm(second))


def _pulled_back(operator: LinearOperator, x: Tensor, y: Tensor) -> Tensor:
    """A^H y by autograd; zeros where the graph is cut."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        image = operator(leaf)
        if not image.requires_grad:
            return torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(image, leaf, y.detach(), allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


def _product(a: Tensor, b: Tensor) -> float:
    """Re<a, b>, in float64."""
    a, b = (torch.view_as_real(each) if each.is_complex() else each for each in (a, b))
    return float(torch.dot(a.double().flatten(), b.double().flatten()))


def _norm(a: Tensor) -> float:
    return math.sqrt(_product(a, a))


def _distance(a: Tensor, b: Tensor) -> float:
    return _ratio(_norm(a - b), _norm(b))


def _ratio(error: float, scale: float) -> float:
    return error / scale if scale else math.inf if error else 0.0
