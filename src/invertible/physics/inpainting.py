"""Inpainting: some pixels are observed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invertible.errors import ConfigError, ShapeError
from invertible.physics.operator import LinearOperator
from invertible.physics.randomness import seeded
from invertible.shapes import check_input


class Inpainting(LinearOperator):
    """The pixels of a mask: A x = A^H x = m x, an orthogonal projection.

    Args:
        mask: true or 1 where a pixel is seen: (*spatial), (c, *spatial) or (B, c, *spatial), with 1 for a batch or
            channels that share it.

    Raises:
        ConfigError: if the mask holds other values than 0 and 1.
        ShapeError: if x or y does not fit the mask.

    Example:
        >>> operator = Inpainting(random_pixels((28, 28), 0.3, generator=0))
        >>> y = operator(torch.rand(8, 1, 28, 28))
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        if not mask.dim() or mask.is_complex() or not ((mask == 0) | (mask == 1)).all():
            raise ConfigError(
                f"Inpainting: expected mask to be boolean or of 0 and 1, got {tuple(mask.shape)} of {mask.dtype} with "
                "other values."
            )
        self.register_buffer("mask", mask != 0)

    def forward(self, x: Tensor) -> Tensor:
        """Images with zeros where nothing is seen: (B, c, *spatial) to the same."""
        check_input("Inpainting", x, None, None, self.mask)
        wanted = x.shape[-self.mask.dim() :]
        fits = self.mask.dim() <= x.dim() and all(
            size == own or (own == 1 and axis + x.dim() - self.mask.dim() < 2)
            for axis, (own, size) in enumerate(zip(self.mask.shape, wanted, strict=True))
        )
        if not fits:
            raise ShapeError(
                f"Inpainting: expected x to end in the sizes of its mask, {tuple(self.mask.shape)}, got "
                f"{tuple(x.shape)}. The mask is aligned with the last axes; only batch and channels may be shared."
            )
        return x * self.mask

    def adjoint(self, y: Tensor) -> Tensor:
        """The same map."""
        return self(y)

    def normal(self, x: Tensor) -> Tensor:
        """The same map."""
        return self(x)

    def measured(self, y: Tensor) -> Tensor:
        """The same map."""
        return self(y)


def random_pixels(shape: Sequence[int], fraction: float, *, generator: torch.Generator | int | None = None) -> Tensor:
    """A mask in which every pixel is seen with a probability.

    Args:
        shape: its shape, such as (H, W), or (B, 1, H, W) for one a sample.
        fraction: the probability, from 0 to 1.
        generator: a generator or a seed.

    Returns:
        Boolean, of this shape.

    Raises:
        ConfigError: if `fraction` is no probability.
    """
    if not 0 <= fraction <= 1:
        raise ConfigError(f"random_pixels: expected fraction from 0 to 1, got {fraction}.")
    return torch.rand(tuple(shape), generator=seeded(generator)) < fraction
