"""Blocks that move numbers to other axes."""

import math
from collections.abc import Sequence

from torch import Tensor

from invertible.bijection import Bijection, Domain, LipschitzBounds
from invertible.errors import ConfigError, ShapeError, choose, require_positive
from invertible.shapes import depth_to_space, from_space_major, space_to_depth, to_space_major, zero_log_det


class Squeeze(Bijection):
    """Space to depth: every f x f square of pixels becomes f^2 channels (Dinh et al. 2017, section 3.6).

    (B, C, H, W) -> (B, f^2 C, H/f, W/f). Pixel (i, j) of a square of channel c goes to channel c f^2 + i f + j
    (`"channel-major"`, torch's `pixel_unshuffle`) or (i f + j) C + c (`"space-major"`, TensorFlow's `space_to_depth`,
    which Glow's code uses). log_det = 0; exact.

    Args:
        factor: f, at least 2.
        order: `"channel-major"` or `"space-major"`.
        channels_last: hand the squeezed image on in torch's channels-last memory format, in which convolutions are
            faster on CPUs and on GPUs with tensor cores; `inverse` gives back ordinary memory. Values are the same.

    Raises:
        ConfigError: if `factor` is below 2 or `order` unknown.
        ShapeError: if height or width is not divisible by f, or in `inverse` channels by f^2.

    Example:
        >>> y, _ = Squeeze()(torch.randn(2, 3, 8, 8))  # (2, 12, 4, 4)
    """

    volume_preserving = True
    exact = True

    def __init__(self, factor: int = 2, order: str = "channel-major", *, channels_last: bool = False) -> None:
        super().__init__()
        if isinstance(factor, bool) or factor < 2:
            raise ConfigError(f"Squeeze: expected factor of at least 2, got {factor!r}.")
        choose("Squeeze", "order", order, {"channel-major": 0, "space-major": 0})
        self.factor, self.order, self.channels_last = factor, order, channels_last

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, f^2 C, H/f, W/f)."""
        self._check(x, condition, None, 2)
        _require_even(self, x, self.factor)
        y = _squeezed_channels_last(x, self.factor) if self.channels_last else space_to_depth(x, self.factor)
        if self.order == "space-major":
            y = to_space_major(y, self.factor**2)
        return y, zero_log_det(x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, f^2 C, H, W) -> (B, C, f H, f W)."""
        self._check(y, condition, None, 2)
        squares = self.factor**2
        if y.shape[1] % squares:
            raise ShapeError(f"Squeeze: expected y with channels divisible by {squares}, got {tuple(y.shape)}.")
        if self.order == "space-major":
            y = from_space_major(y, squares)
        x = depth_to_space(y, self.factor)
        return x.contiguous() if self.channels_last else x, zero_log_det(y)

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """1 and 1: an isometry."""
        return LipschitzBounds(1.0, 1.0)

    def image(self, domain: Domain) -> Domain:
        """The same boxes."""
        return domain.turned

    def extra_repr(self) -> str:
        """Factor and order."""
        return f"{self.factor}, {self.order}"


class Flatten(Bijection):
    """Images to vectors: (B, *shape) -> (B, D), D the product of `shape`. log_det = 0; exact.

    Args:
        shape: of one sample, such as (channels, height, width); the inverse needs it.

    Raises:
        ConfigError: if a size is not positive.
        ShapeError: if a sample is of another shape.

    Example:
        >>> y, _ = Flatten((1, 8, 8))(torch.randn(2, 1, 8, 8))  # (2, 64)
    """

    volume_preserving = True
    exact = True

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        require_positive("Flatten", **{f"shape[{index}]": size for index, size in enumerate(self.shape)})

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, *shape) -> (B, D)."""
        self._check(x, condition, self.shape[0], len(self.shape) - 1)
        if x.shape[1:] != self.shape:
            raise ShapeError(
                f"Flatten: expected x of shape (batch, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}."
            )
        return x.flatten(1), zero_log_det(x)

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, *shape)."""
        self._check(y, condition, math.prod(self.shape), 0)
        return y.unflatten(1, self.shape), zero_log_det(y)

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """1 and 1: an isometry."""
        return LipschitzBounds(1.0, 1.0)

    def image(self, domain: Domain) -> Domain:
        """The same boxes."""
        return domain.turned

    def extra_repr(self) -> str:
        """The shape of a sample."""
        return f"{self.shape}"


def _squeezed_channels_last(x: Tensor, factor: int) -> Tensor:
    """`pixel_unshuffle` and the change of memory format in one copy."""
    batch, channels, height, width = x.shape
    squares = x.reshape(batch, channels, height // factor, factor, width // factor, factor).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(batch, height // factor, width // factor, channels * factor**2).permute(0, 3, 1, 2)


def _require_even(block: Bijection, x: Tensor, factor: int) -> None:
    if x.shape[2] % factor or x.shape[3] % factor:
        raise ShapeError(
            f"{type(block).__name__}: expected x with height and width divisible by {factor}, got {tuple(x.shape)}. "
            "Pad the image first."
        )
