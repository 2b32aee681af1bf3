"""Balls around samples: random points in them, steps of a given length, and the way back into them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.errors import ConfigError, DomainError
from invertible.shapes import finite_rows
from invertible.stability.batches import per_row
from invertible.stability.products import norm, ratio, times

NORMS = ("linf", "l2")


@dataclass(frozen=True)
class Ball:
    """All z with |z - x| <= radius, for every sample x of a batch, and low <= z_i <= high.

    Args:
        norm: `"linf"`, the largest entry, or `"l2"`, the 2-norm of the sample.
        radius: greater than 0.
        limits: (low, high) of valid data, or `None` for no limits.

    Raises:
        ConfigError: naming the argument that is out of its range.
    """

    norm: str
    radius: float
    limits: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ConfigError(f"attack: expected norm to be 'linf' or 'l2', got {self.norm!r}.")
        if not 0 < self.radius < math.inf:
            raise ConfigError(
                f"attack: expected radius > 0 and finite, got {self.radius}. Half a bin of data in [0, 1] with n grey "
                "levels is 0.5 / n."
            )
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise ConfigError(f"attack: expected limits (low, high) with low < high, got {self.limits}.")

    def check(self, x: Tensor) -> None:
        """Check that the centres are valid data.

        Raises:
            DomainError: if x is not finite or lies outside the limits.
        """
        if not bool(x.isfinite().all()):
            rows = (~finite_rows(x)).nonzero().flatten().tolist()
            raise DomainError(f"attack: expected x to be finite, got NaN or infinity in samples {rows[:5]}. Drop them.")
        if self.limits is not None and bool(((x < self.limits[0]) | (x > self.limits[1])).any()):
            raise DomainError(
                f"attack: expected x within limits={self.limits}, got values from {float(x.min()):.4g} to "
                f"{float(x.max()):.4g}. Give the limits of the data as the model sees them."
            )

    def start(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A point for every sample, uniform in its ball."""
        if self.norm == "linf":
            shift = self.radius * (2 * _uniform(x.shape, generator).to(x) - 1)
        else:
            # The radius of a uniform point of a D-dimensional ball is distributed as U^(1/D).
            length = _uniform((len(x),), generator).to(x) ** (1 / x[0].numel())
            shift = times(self.radius * length, unit(normal(x, generator)))
        return self.back(x + shift, x)

    def step(self, direction: Tensor, length: float) -> Tensor:
        """The step of the given length that goes farthest along a direction: its signs, or its unit vector."""
        return length * (direction.sign() if self.norm == "linf" else unit(direction))

    def back(self, z: Tensor, x: Tensor) -> Tensor:
        """The point of the ball that is closest to z; clamped to the limits, which never leads out of the ball."""
        if self.norm == "linf":
            z = torch.minimum(torch.maximum(z, x - self.radius), x + self.radius)
        else:
            shift = z - x
            size = norm(shift)
            z = torch.where(per_row(size <= self.radius, x), z, x + times(ratio(self.radius + 0 * size, size), shift))
        return z if self.limits is None else z.clamp(*self.limits)


def unit(direction: Tensor) -> Tensor:
    """Every sample's direction with 2-norm 1, whatever its size; 0 stays 0."""
    largest = direction.reshape(len(direction), -1).abs().amax(1)
    direction = direction / per_row(torch.where(largest > 0, largest, 1), direction)
    size = norm(direction)
    return direction / per_row(torch.where(size > 0, size, 1), direction)


def normal(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers of x's shape, drawn on the generator's device."""
    return torch.randn(x.shape, generator=generator, device=generator.device).to(x)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)
