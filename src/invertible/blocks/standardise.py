"""Data shifted and scaled by the mean and deviation of a training set."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invertible.ball import constant_norm, like, norms_of
from invertible.bijection import Bijection, Domain, LipschitzBounds
from invertible.errors import ConfigError, DomainError, ShapeError, require_positive
from invertible.memory.step import Step
from invertible.module_step import GridStep
from invertible.norms import outward
from invertible.shapes import log_det_dtype
from invertible.steps import BlockStep


class Standardise(Bijection):
    """y_i = (x_i - m_i)/s_i for every feature or channel i, with the training data's mean and deviation.

    Inverse: x_i = s_i y_i + m_i. log_det = -sum_i log s_i, times the number of positions. m and s are buffers, 0 and 1
    until `fit` sets them: nothing is learned, and nothing depends on the batch.

    Args:
        features: size of axis 1.

    Shapes:
        x, y: (B, features, ...), any number of spatial axes; log_det: (B,).

    Numerics: Lip(f) = max 1/s, Lip(f^-1) = max s, on the whole space.

    Raises:
        ConfigError: if `features` is not positive.

    Example:
        >>> block = Standardise(3)
        >>> block.fit(training_images)
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        require_positive("Standardise", features=features)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and deviation of every feature from data (N, features, ...); a constant feature keeps s = 1.

        Raises:
            ShapeError: on another number of features, or no samples.
            DomainError: if x is not finite.
        """
        if x.dim() < 2 or x.shape[1] != len(self.mean) or not x.numel():
            raise ShapeError(
                f"Standardise.fit: expected x of shape (samples, {len(self.mean)}, ...) with samples, got "
                f"{tuple(x.shape)}."
            )
        rows = x.transpose(0, 1).flatten(1).double()
        mean, deviation = rows.mean(1), rows.std(1, correction=0)
        if not bool(mean.isfinite().all() & deviation.isfinite().all()):
            raise DomainError("Standardise.fit: expected finite data, got NaN or infinity. Remove such samples.")
        self.set(mean, torch.where(deviation > 0, deviation, 1.0))

    @torch.no_grad()
    def set(self, mean: Tensor, deviation: Tensor) -> None:
        """Take m and s, of shape (features,), as they are given.

        Raises:
            ConfigError: if a deviation is not positive and finite, or a mean not finite.
        """
        if not bool((deviation > 0).all() & deviation.isfinite().all() & mean.isfinite().all()):
            raise ConfigError("Standardise.set: expected finite means and positive deviations.")
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x - m)/s."""
        self._check(x, condition, len(self.mean), None, self.mean)
        mean, deviation = self._shaped(x)
        return (x - mean) / deviation, -self._log_det(x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """s y + m."""
        self._check(y, condition, len(self.mean), None, self.mean)
        mean, deviation = self._shaped(y)
        return torch.addcmul(mean, deviation, y), self._log_det(y)

    def steps(self) -> list[Step]:
        """One; in a chain of `memory="exact"` its input is kept."""
        return [StandardiseStep(self)]

    def _shaped(self, like: Tensor) -> tuple[Tensor, Tensor]:
        axes = (-1, *(1,) * (like.dim() - 2))
        return self.mean.to(like.dtype).view(axes), self.deviation.to(like.dtype).view(axes)

    def _log_det(self, like: Tensor) -> Tensor:
        positions = math.prod(like.shape[2:])
        return (positions * self.deviation.to(log_det_dtype(like.dtype)).log().sum()).expand(len(like))

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """max 1/s and max s."""
        deviation = self.deviation.double()
        return LipschitzBounds(outward(float((1 / deviation).max())), outward(float(deviation.max())))

    def image(self, domain: Domain) -> Domain:
        """The boxes shifted and scaled."""
        bounds, (x_norm, y_norm) = self.bounds(), norms_of(domain)
        shift = float(self.mean.double().abs().max())
        scaled = float((self.mean.double() / self.deviation.double()).abs().max())
        boxes = domain.y * bounds.inverse + shift, domain.x * bounds.forward + scaled
        x_norm = y_norm * bounds.inverse + constant_norm(domain, shift)
        y_norm = norms_of(domain)[0] * bounds.forward + constant_norm(domain, scaled)
        return like(domain, *boxes, x_norm, y_norm)

    def extra_repr(self) -> str:
        """The number of features."""
        return f"{len(self.mean)}"


class StandardiseStep(BlockStep):
    """A `Standardise` as a step."""

    def exact(self, bits: int) -> Step:
        """The result rounded to the grid, and the input kept: no division is undone to the bit."""
        return GridStep(self.block, lambda x: self.block(x)[0], bits)
