"""Kernels of blurs, which sum to one: Gaussian and linear motion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invertible.errors import ConfigError


def gaussian_kernel(sigma: float | Sequence[float], *, spatial_dims: int = 2, truncate: float = 4.0) -> Tensor:
    """exp(-r^2 / (2 sigma^2)) at whole pixels, normalised.

    Args:
        sigma: standard deviation in pixels, one, or one an axis.
        spatial_dims: number of axes, for one sigma.
        truncate: how many standard deviations it reaches from the middle.

    Returns:
        (k, ...) with odd sizes k = 2 ceil(truncate sigma) + 1.

    Raises:
        ConfigError: if a number is not positive.
    """
    sigmas = tuple(sigma) if isinstance(sigma, Sequence) else (sigma,) * spatial_dims
    if not sigmas or not all(0 < each < math.inf for each in (*sigmas, truncate)):
        raise ConfigError(f"gaussian_kernel: expected sigma and truncate to be positive, got {sigma} and {truncate}.")
    kernel = torch.ones(())
    for each in sigmas:
        reach = math.ceil(truncate * each)
        profile = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / each) ** 2)
        kernel = kernel[..., None] * profile
    return kernel / kernel.sum()


def motion_kernel(length: float, angle: float = 0.0) -> Tensor:
    """A line through the middle: the blur of a straight motion during the exposure.

    The line is sampled sixteen times a pixel, each sample shared by its four pixels bilinearly.

    Args:
        length: in pixels.
        angle: in degrees, counter-clockwise from the direction of rows.

    Returns:
        (k, k), odd, normalised.

    Raises:
        ConfigError: if a number is not finite or the length is not positive.
    """
    if not (0 < length < math.inf and math.isfinite(angle)):
        raise ConfigError(f"motion_kernel: expected a positive length and a finite angle, got {length} and {angle}.")
    reach = math.ceil(length / 2)
    along = torch.linspace(-length / 2, length / 2, 16 * reach + 1, dtype=torch.float64)
    row = reach - along * math.sin(math.radians(angle))
    column = reach + along * math.cos(math.radians(angle))
    pixels = torch.arange(2 * reach + 1, dtype=torch.float64)
    rows = (1 - (row[:, None] - pixels).abs()).clamp(min=0)
    columns = (1 - (column[:, None] - pixels).abs()).clamp(min=0)
    kernel = rows.T @ columns
    return (kernel / kernel.sum()).float()
