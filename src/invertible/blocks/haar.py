"""The Haar wavelet transform as a squeeze."""

from collections.abc import Sequence

import torch
from torch import Tensor

from invertible.ball import like, norms_of
from invertible.bijection import Bijection, Domain, LipschitzBounds
from invertible.blocks.haar_step import HaarStep
from invertible.blocks.lifting import LiftedStep
from invertible.errors import ShapeError
from invertible.memory.step import Step
from invertible.shapes import depth_to_space, space_to_depth, zero_log_det


class Haar(Bijection):
    """Orthonormal 2-D Haar wavelets (Ardizzone et al. 2019): (B, C, H, W) -> (B, 4C, H/2, W/2).

    Of a square [[a, b], [c, d]] come the average (a + b + c + d)/2 and the differences (a - b + c - d)/2 across,
    (a + b - c - d)/2 down and (a - b - c + d)/2 diagonally; channels are grouped by band, averages first: band k of
    channel c is channel k C + c. The matrix is its own inverse. log_det = 0.

    Numerics: an isometry, Lip(f) = Lip(f^-1) = 1; a round trip costs a few roundings, and none in a chain of
    `memory="exact"`: see `HaarStep`.

    Raises:
        ShapeError: if height or width is odd, or in `inverse` channels are not divisible by 4.

    Example:
        >>> y, _ = Haar()(torch.randn(2, 3, 8, 8))  # (2, 12, 4, 4)
    """

    volume_preserving = True

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, 4C, H/2, W/2)."""
        self._check(x, condition, None, 2)
        return self.from_bands(_bands(*self.pixels(0.5 * x))), zero_log_det(x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, 4C, H, W) -> (B, C, 2H, 2W)."""
        self._check(y, condition, None, 2)
        return self.from_pixels(_bands(*self.bands(0.5 * y))), zero_log_det(y)

    def steps(self) -> list[Step]:
        """One, whose exact form is a `HaarStep`."""
        return [LiftedStep(self, lambda bits: HaarStep(self, bits))]

    def pixels(self, x: Tensor) -> Sequence[Tensor]:
        """a, b, c, d of all squares, each of shape (B, C, H/2, W/2)."""
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise ShapeError(f"Haar: expected x with even height and width, got {tuple(x.shape)}. Pad the image first.")
        return space_to_depth(x, 2).unflatten(1, (x.shape[1], 4)).unbind(2)

    def from_pixels(self, pixels: Sequence[Tensor]) -> Tensor:
        """The image of squares a, b, c, d."""
        return depth_to_space(torch.stack(tuple(pixels), 2).flatten(1, 2), 2)

    def bands(self, y: Tensor) -> Sequence[Tensor]:
        """Averages and differences across, down and diagonal, each of shape (B, C, H, W)."""
        if y.shape[1] % 4:
            raise ShapeError(f"Haar: expected y with channels divisible by 4, got {tuple(y.shape)}. Pass latents.")
        return y.chunk(4, 1)

    def from_bands(self, bands: Sequence[Tensor]) -> Tensor:
        """The bands as channels."""
        return torch.cat(tuple(bands), 1)

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """1 and 1: an isometry."""
        return LipschitzBounds(1.0, 1.0)

    def image(self, domain: Domain) -> Domain:
        """Twice the radii: a band is half a sum of four numbers; the same lengths."""
        x_norm, y_norm = norms_of(domain)
        return like(domain, 2 * domain.y, 2 * domain.x, y_norm, x_norm)


def _bands(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> list[Tensor]:
    left, right, above, below = a + c, b + d, a - c, b - d
    return [left + right, left - right, above + below, above - below]
