"""Gaussian noise of measurements."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from invertible.errors import ConfigError
from invertible.physics.operator import Observation
from invertible.physics.randomness import seeded, standard_normal

Data = TypeVar("Data", Tensor, Observation)


def add_noise(data: Data, sigma: float | Tensor, generator: torch.Generator | int | None = None) -> Data:
    """Add independent Gaussian noise to data, or to an observation where its operator measures.

    Args:
        data: (B, ...), real or complex, or an observation, whose data stay zero where nothing is measured.
        sigma: standard deviation of every real number, so of real and imaginary part each; one, or (B,). Under an
            orthonormal Fourier transform it is the same in k-space and in the image.
        generator: a generator or a seed.

    Returns:
        Of data's type; the original is left as it is.

    Raises:
        ConfigError: if sigma is negative, not finite, or neither one number nor one a sample.

    Example:
        >>> noisy = add_noise(Observation(operator, operator(x)), 0.01, generator=0)
    """
    if isinstance(data, Observation):
        drawn = _noise(data.data, sigma, generator)
        return replace(data, data=data.data + data.operator.measured(drawn))
    return data + _noise(data, sigma, generator)


def _noise(data: Tensor, sigma: float | Tensor, generator: torch.Generator | int | None) -> Tensor:
    if isinstance(sigma, Tensor):
        if sigma.shape not in ((), (len(data),)) or not ((sigma >= 0) & sigma.isfinite()).all():
            raise ConfigError(
                f"add_noise: expected sigma of shape () or ({len(data)},), finite and at least 0, got "
                f"{tuple(sigma.shape)} from {sigma.min() if sigma.numel() else None}."
            )
        sigma = sigma.to(data.device, data.real.dtype).reshape(-1, *(1,) * (data.dim() - 1))
    elif not 0 <= sigma < math.inf:
        raise ConfigError(f"add_noise: expected sigma to be finite and at least 0, got {sigma}.")
    return standard_normal(data, seeded(generator)) * sigma
