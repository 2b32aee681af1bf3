"""Models that reconstruct images from what was observed of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from invertible.errors import DomainError, ShapeError, require_positive
from invertible.physics.operator import Observation
from invertible.shapes import check_input, check_placement, finite_rows


class Core(nn.Module):
    """What a `Reconstructor` consists of: estimates of images of unit deviation."""

    def estimates(self, observation: Observation, image: Tensor, *, every: bool) -> list[Tensor]:
        """Estimates of x.

        Args:
            observation: y, scaled so that its backprojection has unit deviation.
            image: A^H y, (B, c, *spatial).
            every: those of all steps; else the last one alone.
        """
        raise TypeError(f"{type(self).__name__}: define estimates(self, observation, image, *, every).")


class Reconstructor(nn.Module):
    """An estimate of x from y = A x + noise.

    Observations are divided by the deviation of their backprojection A^H y, each sample by its own, and the estimates
    multiplied by it: the model of a y is a times the model of y. Deviations are those of the centre of the image, as
    the background of a scan tells nothing of its intensity (Putzky et al. 2019, "i-RIM applied to the fastMRI
    challenge"). An image that is constant there is left as it is.

    Args:
        core: makes the estimates.
        image_channels: c, of the images of the operator: 2 for complex ones.
        spatial_dims: number of their spatial axes.
        crop: height and width of the centre, at most.
        validate: refuse inputs and results that are not finite, at the price of waiting for the device. Switch it off
            per object: `model.validate = False`.

    Attributes:
        config: the model's name and arguments, from which `invertible.load` rebuilds it; set by `invertible.models`.

    Example:
        >>> model = models.irim("small", image_channels=2)
        >>> image = model(Observation(CartesianMRI(mask), kspace))
    """

    config: dict[str, Any] | None = None

    def __init__(
        self, core: Core, *, image_channels: int, spatial_dims: int = 2, crop: int = 320, validate: bool = True
    ) -> None:
        super().__init__()
        require_positive("Reconstructor", image_channels=image_channels, spatial_dims=spatial_dims, crop=crop)
        self.core, self.image_channels, self.spatial_dims, self.crop = core, image_channels, spatial_dims, crop
        self.validate = validate

    def forward(self, observation: Observation) -> Tensor:
        """The estimate of x, (B, c, *spatial); other channels if the model has an output network for others.

        Raises:
            ShapeError: if the operator's images have other channels or axes, or are on another device.
            DomainError: if the observation is not finite, or the result is not.
        """
        return self._solved(observation, every=False)[-1]

    def estimates(self, observation: Observation) -> list[Tensor]:
        """The estimates of all steps, the last one the result, as `forward` has it. One, for models without steps."""
        return self._solved(observation, every=True)

    def normalised(self, observation: Observation) -> tuple[Observation, Tensor, Tensor]:
        """The observation as the core takes it, its backprojection (B, c, *spatial), and the deviations (B,)."""
        image = observation.backprojection()
        check_input("Reconstructor", image, self.image_channels, self.spatial_dims)
        check_placement("Reconstructor", image, next(self.parameters(), None))
        deviations = self._deviations(image.detach())
        return observation.scaled(1 / deviations), image / _spread(deviations, image), deviations

    def _solved(self, observation: Observation, *, every: bool) -> list[Tensor]:
        scaled, image, deviations = self.normalised(observation)
        found = self.core.estimates(scaled, image, every=every)
        result = [one * _spread(deviations, one) for one in found]
        self._check_finite(result[-1], observation)
        return result

    def _deviations(self, image: Tensor) -> Tensor:
        for axis in range(2, image.dim())[-2:]:
            size = min(self.crop, image.shape[axis])
            image = image.narrow(axis, (image.shape[axis] - size) // 2, size)
        deviations = image.flatten(1).std(1, correction=0)
        return torch.where(deviations > 0, deviations, torch.ones_like(deviations))

    def _check_finite(self, result: Tensor, observation: Observation) -> None:
        if not self.validate or torch.compiler.is_compiling() or bool(result.detach().isfinite().all()):
            return
        for what, tensor in (("observation", observation.data), ("result", result)):
            bad = (~finite_rows(tensor)).nonzero().flatten()
            if len(bad):
                remedy = "Remove them" if what == "observation" else "The weights have diverged: lower the rate"
                raise DomainError(
                    f"Reconstructor: expected a finite {what}, got NaN or infinity in {len(bad)} of {len(tensor)} "
                    f"samples, first in sample {int(bad[0])}. {remedy}, or set model.validate = False."
                )


def checked_context(owner: str, observation: Observation, features: int) -> Tensor | None:
    """The context of an observation, for a model that takes so many features; `None` for one that takes none.

    Raises:
        ShapeError: if the model takes a context and there is none, or one of another width.
    """
    context = observation.context
    if not features:
        return None
    if context is None or context.shape[1] != features:
        came = "none" if context is None else str(tuple(context.shape))
        raise ShapeError(
            f"{owner}: expected an observation with context of shape ({len(observation.data)}, {features}), got {came}."
            " Give Observation(..., context=...), or build the model with context_features=0."
        )
    return context


def _spread(factors: Tensor, x: Tensor) -> Tensor:
    return factors.view(-1, *(1,) * (x.dim() - 1)).to(x.dtype)
