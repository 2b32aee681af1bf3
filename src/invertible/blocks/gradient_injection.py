"""The data of an inverse problem, as a block without parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from invertible.blocks.shear import Shear
from invertible.errors import ShapeError, require_positive
from invertible.shapes import full_precision

if TYPE_CHECKING:
    # Who has an observation has loaded it; `import invertible` need not.
    from invertible.physics.operator import Observation


class GradientInjection(Shear):
    """Adds the gradient of |A x - y|^2 / 2 at an estimate to the channels behind it (Putzky & Welling 2019).

    The state is s = (x_1, ..., x_m, g_1, ..., g_m, rest) along the channels: m estimates of c channels each, as many
    channels for their gradients, and the rest of the memory. Then

        g_i <- g_i + A^H (A x_i - y),  inverse: g_i <- g_i - A^H (A x_i - y),

    and all else stays. log_det = 0: volume preserving. No parameters, but for those that the operator may have; A^H y
    is computed once, at construction. Where the operator or y is learned, make a new block for every backward pass.

    Args:
        observation: y and A, of the batch that the block will see; one of a single sample serves any batch.
        image_channels: c.
        multiplicity: m.

    Shapes:
        s: (B, C, *spatial) with C >= 2 m c; log_det: (B,).

    Cost: m evaluations of A^H A forward, inverse and in reconstruction; next to nothing is stored for the backward
    pass, since it is linear.

    Numerics: errors of a round trip are those of one addition. On a grid of numbers (`memory="exact"`) the inverse is
    exact to the bit, if A^H A gives the same bits for the same tensors.

    Raises:
        ConfigError: if a number is not positive.
        ShapeError: if the images of the operator have other than c channels, or the state has too few, or is of
            another batch or size.

    Example:
        >>> block = GradientInjection(Observation(operator, y), image_channels=2)
        >>> state, _ = block(state)
    """

    has_exact_form = True

    def __init__(self, observation: Observation, image_channels: int, multiplicity: int = 1) -> None:
        super().__init__()
        require_positive("GradientInjection", image_channels=image_channels, multiplicity=multiplicity)
        self.image_channels, self.multiplicity = image_channels, multiplicity
        # A module of this one, so that it moves and is copied with it, and learned operators are found.
        self.operator = observation.operator
        self.backprojection: Tensor
        self.register_buffer("backprojection", observation.backprojection())
        if self.backprojection.dim() < 2 or self.backprojection.shape[1] != image_channels:
            raise ShapeError(
                f"GradientInjection: expected images of {image_channels} channels, got an operator whose adjoint "
                f"returns {tuple(self.backprojection.shape)}. Build it for as many."
            )

    def check(self, x: Tensor, condition: Tensor | None) -> None:
        """Refuse a state that does not fit the observation."""
        self._check(x, condition, reference=self.backprojection)
        image, least = self.backprojection, 2 * self.image_channels * self.multiplicity
        if x.shape[1] < least or x.shape[2:] != image.shape[2:] or len(image) not in (1, len(x)):
            batch = "batch" if len(image) == 1 else len(image)
            sizes = ", ".join((f"{least} channels or more", *map(str, image.shape[2:])))
            raise ShapeError(
                f"GradientInjection: expected x of shape ({batch}, {sizes}), got {tuple(x.shape)}. It holds "
                f"{self.multiplicity} estimates of {self.image_channels} channels and their gradients, of the batch "
                "that was observed: reshape x, or build it for another observation."
            )

    def update(self, x: Tensor) -> tuple[Tensor, ...]:
        """The gradients at the estimates, (B, m c, *spatial)."""
        estimates = x[:, : self.image_channels * self.multiplicity].to(self.backprojection.dtype)
        with full_precision(x):
            found = [self.operator.normal(one) - self.backprojection for one in estimates.split(self.image_channels, 1)]
        return (torch.cat(found, 1) if len(found) > 1 else found[0],)

    def shifted(self, x: Tensor, update: tuple[Tensor, ...], sign: int) -> Tensor:
        """The state with sign times the gradients added."""
        width = update[0].shape[1]
        moved = torch.add(x[:, width : 2 * width], update[0].to(x.dtype), alpha=sign)
        return torch.cat((x[:, :width], moved, x[:, 2 * width :]), 1)

    def shift_(self, x: Tensor, update: tuple[Tensor, ...], sign: int) -> None:
        """The same in place."""
        width = update[0].shape[1]
        x[:, width : 2 * width].add_(update[0].to(x.dtype), alpha=sign)

    def extra_repr(self) -> str:
        """Sizes, for `print(block)`."""
        return f"image_channels={self.image_channels}, multiplicity={self.multiplicity}"
