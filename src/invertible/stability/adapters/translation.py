"""Another library's errors, log-determinants and dtypes in our terms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from invertible.errors import ConfigError, DomainError, InvertibleError, NotInvertibleError, ShapeError
from invertible.shapes import log_det_dtype
from invertible.stability.adapters.recognition import is_a

OUTSIDE_DOMAIN = "nflows.transforms.base.InputOutsideDomain"
NO_INVERSE = "nflows.transforms.base.InverseNotAvailable"
# Of a RuntimeError that is about the values of some samples, not about the call.
ABOUT_VALUES = ("out of bounds", "singular", "out of range")


def per_sample(owner: str, log_det: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    """A log-determinant as another library gives it (a number, one for all, (B, 1)) as a tensor of shape (B,).

    Raises:
        ShapeError: if it holds neither one number nor one a sample.
    """
    log_det = torch.as_tensor(log_det, device=x.device).to(log_det_dtype(x.dtype))
    if log_det.shape[:1] == x.shape[:1] and log_det.numel() == len(x):
        return log_det.reshape(len(x))
    if log_det.numel() == 1:
        return log_det.reshape(1).expand(len(x))
    raise ShapeError(
        f"{owner}: expected its log-determinant to be one number or one a sample, shape ({len(x)},), "
        f"got {tuple(log_det.shape)}. Sum it over all axes but the first."
    )


@contextmanager
def translated(owner: str) -> Iterator[None]:
    """Raise another library's errors as ours, with what to do.

    Raises:
        DomainError: for samples outside the map's domain.
        ConfigError: if it has no inverse.
        NotInvertibleError: if it fails on the values of some sample.
    """
    try:
        yield
    except InvertibleError:
        raise
    except Exception as error:
        # FrEIA's graph wraps what its nodes raise.
        cause = error.__cause__ if "encountered an error" in str(error) and error.__cause__ else error
        if is_a(cause, OUTSIDE_DOMAIN):
            raise DomainError(
                f"{owner}: expected values inside its domain, got some outside ({type(cause).__name__}). "
                "Rescale the data, or give the flow a layer that maps them there."
            ) from error
        if _means_no_inverse(cause):
            said = f"{type(cause).__name__}: {cause}".rstrip(" .:")
            raise ConfigError(
                f"{owner}: expected a map with both directions, got {said}. "
                "Give the missing one: invertible.adapt(forward=..., inverse=...)."
            ) from error
        if isinstance(cause, RuntimeError | IndexError) and any(word in str(cause) for word in ABOUT_VALUES):
            raise NotInvertibleError(f"{owner}: {str(cause).splitlines()[0]}.", block=owner) from error
        if cause is not error:
            raise cause from error
        raise


def _means_no_inverse(error: BaseException) -> bool:
    """nflows' own error, NotImplementedError, or Pyro's KeyError of a cache; not that of a kernel torch lacks."""
    if isinstance(error, KeyError):
        return "cache" in str(error)
    return is_a(error, NO_INVERSE) or (isinstance(error, NotImplementedError) and "implemented for" not in str(error))


@contextmanager
def constants_like(x: Tensor) -> Iterator[None]:
    """x's dtype as the default one within: some make their zeros, and sum log-determinants, in the default dtype."""
    before = torch.get_default_dtype()
    if x.dtype == before or x.dtype not in (torch.float32, torch.float64):
        yield
        return
    torch.set_default_dtype(x.dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
