"""Classical reconstructions by name, each a function of an observation, as a model is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from invertible.errors import ConfigError, choose
from invertible.physics.least_squares import least_squares
from invertible.physics.operator import Observation
from invertible.physics.total_variation import total_variation

Method = Callable[[Observation], Tensor]
# Of the brightest magnitude; see benchmarks/mri_reconstruction.py, which chooses it on validation volumes.
TV_WEIGHT = 1e-3


def baseline(name: str, weight: float | None = None) -> Method:
    """A classical reconstruction: maps an observation to images (B, c, *spatial).

    Args:
        name: `"zero-filled"`, A^H y; `"least-squares"`, of |A x - y|^2 / 2 + weight |x|^2 / 2, which for MRI of one
            coil without weight is A^H y again; `"tv"`, total variation, `weight` times the largest |A^H y| its weight.
        weight: 0 for least squares and 0.001 for total variation by default.

    Raises:
        ConfigError: if the name is unknown, or a weight is given to a method that has none; later if it is negative.

    Example:
        >>> image = baseline("tv")(observation)
    """
    found = choose("baseline", "name", name, BASELINES)
    if weight is None:
        return found
    if name == "zero-filled":
        raise ConfigError(f"baseline: expected no weight for zero-filled, which has none, got {weight}. Leave it out.")
    return partial(found, weight=weight)


def _zero_filled(observation: Observation) -> Tensor:
    return observation.backprojection()


def _least_squares(observation: Observation, weight: float = 0.0) -> Tensor:
    return least_squares(observation, weight).image


def _total_variation(observation: Observation, weight: float = TV_WEIGHT) -> Tensor:
    brightest = torch.linalg.vector_norm(observation.backprojection(), dim=1).flatten(1).amax(1)
    # A slice of zeros is its own solution, whatever the weight.
    return total_variation(observation, weight * torch.where(brightest > 0, brightest, 1)).image


BASELINES: dict[str, Method] = {"zero-filled": _zero_filled, "least-squares": _least_squares, "tv": _total_variation}
