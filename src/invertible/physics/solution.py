"""What an iterative reconstruction returns, and how it tells of its progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.errors import ConfigError, DomainError, ShapeError

Progress = Callable[[int, float], None]


@dataclass(frozen=True, eq=False)
class Solution:
    """A reconstruction of every sample.

    Attributes:
        image: (B, c, *spatial).
        objective: what was minimised, (B,) at each of `iterations`.
        residual: what the stopping rule measured there, (B,), relative.
        iterations: numbers of the iterations at which the two were taken; the last one is that of `image`.
        converged: which samples met the tolerance, (B,).
    """

    image: Tensor
    objective: tuple[Tensor, ...]
    residual: tuple[Tensor, ...]
    iterations: tuple[int, ...]
    converged: Tensor


def weights(owner: str, name: str, value: float | Tensor, x: Tensor, *, positive: bool) -> Tensor:
    """A weight for every sample, shaped to multiply x.

    Raises:
        ConfigError: if it is negative, zero where it must not be, not finite, or neither one number nor one a sample.
    """
    tensor = torch.as_tensor(value, dtype=x.dtype, device=x.device)
    fits = tensor.shape in ((), (len(x),))
    if not fits or not (((tensor > 0) if positive else (tensor >= 0)) & tensor.isfinite()).all():
        least = "positive" if positive else "at least 0"
        raise ConfigError(
            f"{owner}: expected {name} to be finite and {least}, one number or one for each of {len(x)} samples, got "
            f"{value if tensor.numel() <= 8 else tuple(tensor.shape)}."
        )
    return tensor.expand(len(x)).reshape(-1, *(1,) * (x.dim() - 1))


def first_estimate(owner: str, start: Tensor | None, default: Tensor) -> Tensor:
    """The start that was given, without its graph, or the default.

    Raises:
        ShapeError: if it is not of the default's shape and dtype.
    """
    if start is None:
        return default
    if start.shape != default.shape or start.dtype != default.dtype:
        raise ShapeError(
            f"{owner}: expected start of shape {tuple(default.shape)} of {default.dtype}, as A^H y, got "
            f"{tuple(start.shape)} of {start.dtype}."
        )
    return start.detach()


def require_finite(owner: str, name: str, values: Tensor) -> None:
    """Check that values, with one row a sample, are finite.

    Raises:
        DomainError: naming the first sample whose values are not.
    """
    finite = values.isfinite().reshape(len(values), -1).all(1)
    if not finite.all():
        sample = int((~finite).nonzero()[0])
        raise DomainError(f"{owner}: expected finite {name}, got NaN or infinity in sample {sample}.")


def row_products(a: Tensor, b: Tensor) -> Tensor:
    """Re<a, b> of every sample, (B,), summed in float64."""
    a, b = (torch.view_as_real(each) if each.is_complex() else each for each in (a, b))
    return (a.double() * b.double()).flatten(1).sum(1)
