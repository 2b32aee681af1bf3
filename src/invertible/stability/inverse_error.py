"""The expected error of a computed inverse, by adjoints or by round trips of neighbours."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from invertible.bijection import Bijection
from invertible.errors import DomainError
from invertible.stability.batches import per_row
from invertible.stability.passage import Direction, send
from invertible.stability.products import NotDifferentiableError, norm, ratio, times
from invertible.stability.sensitivity import Roundings
from invertible.without_log_det import without_log_det

NEIGHBOURS = 3


class Expected(NamedTuple):
    """The computed inverse and its expected error.

    Attributes:
        x: f^-1(y) as computed, (B, ...).
        error: root of the expected |x' - x|_2^2, float64 of shape (B,) on the CPU; `inf` if not finite.
        verified: samples whose x was sent through f, boolean of shape (B,) on the CPU.
    """

    x: Tensor
    error: Tensor
    verified: Tensor


Estimate = Callable[[Bijection, Tensor, Tensor | None, torch.Generator], Expected]


@without_log_det()
def by_adjoints(bijection: Bijection, y: Tensor, condition: Tensor | None, generator: torch.Generator) -> Expected:
    """From the adjoints of all operations along a random direction and along the measured error, plus the latter.

    Args:
        bijection: the map; its parameters constant.
        y: finite latents, (B, ...).
        condition: the condition, of B rows.
        generator: source of the directions and the noise.

    Raises:
        NotDifferentiableError: if a part of the inverse runs without grad, or an operation has no derivative.
    """
    leaf, roundings = y.detach().requires_grad_(), Roundings(len(y))
    with torch.enable_grad(), roundings:
        roundings.watch(leaf)
        x, _ = bijection.inverse(leaf, condition)
    if roundings.cut or not x.requires_grad:
        raise NotDifferentiableError("The inverse, or a part of it, runs without grad.")
    computed = x.detach()
    moved, verified = _measured(bijection, y, computed, condition, generator)
    size = norm(moved)
    total = size.double().cpu().square()
    unit = times(ratio(torch.ones_like(size), size), moved).nan_to_num(0.0)
    directions = _noise(computed, generator), torch.where(_rows(size > 0, x), unit, _noise(computed, generator))
    for direction in directions:
        _backward(x, leaf, direction)
        total = total + roundings.variance()
    return Expected(computed, _infinite_if_not_finite(total.sqrt()), verified)


@torch.no_grad()
@without_log_det()
def by_neighbours(bijection: Bijection, y: Tensor, condition: Tensor | None, generator: torch.Generator) -> Expected:
    """From round trips x -> y -> x of points within rounding of x', plus the measured error; without derivatives.

    What both directions round alike, bit by bit, is not seen.
    """
    x, _ = _passed(bijection.inverse, y, condition, y)
    moved, verified = _measured(bijection, y, x, condition, generator)
    total = norm(moved).double().cpu().square()
    for _ in range(NEIGHBOURS):
        near = x + torch.finfo(x.dtype).eps * x.abs() * _noise(x, generator)
        there, seen = _passed(bijection, near, condition, y)
        back, returned = _passed(bijection.inverse, there, condition, x)
        verified = verified & seen & returned
        size = torch.where(seen & returned, norm(back - near).double().cpu(), 0.0)
        total = total + size.square() / NEIGHBOURS
    return Expected(x, _infinite_if_not_finite(total.sqrt()), verified)


@torch.no_grad()
def _measured(
    bijection: Bijection, y: Tensor, x: Tensor, condition: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """f^-1(y + r + noise) - x with the residual r = f(x) - y, and the samples for which both were defined.

    The noise is a rounding of y. Without it a residual of 0 would pass for an exact inverse also where f contracts so
    much that the error of x disappears in the rounding of y.
    """
    image, verified = _passed(bijection, x, condition, y)
    residual = torch.where(_rows(verified, y), image - y, 0)
    noise = torch.finfo(y.dtype).eps * y.abs() * _noise(y, generator)
    again, defined = _passed(bijection.inverse, y + residual + noise, condition, x)
    return torch.where(_rows(defined, x), again - x, 0), verified & defined


def _passed(direction: Direction, x: Tensor, condition: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out, NaN where an error is raised, and the samples that are inside the domain."""
    passage = send(direction, x, condition)
    inside = torch.tensor([not isinstance(error, DomainError) for error in passage.errors])
    if passage.output.shape == like.shape or bool(passage.output.isfinite().any()):
        return passage.output, inside
    return torch.full_like(like, math.nan), inside


def _backward(x: Tensor, leaf: Tensor, direction: Tensor) -> None:
    try:
        torch.autograd.grad(x, leaf, direction, retain_graph=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        raise NotDifferentiableError(str(error)) from error


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like)


def _rows(chosen: Tensor, like: Tensor) -> Tensor:
    return per_row(chosen.to(like.device), like)


def _infinite_if_not_finite(error: Tensor) -> Tensor:
    return torch.where(error.isfinite(), error, math.inf)
