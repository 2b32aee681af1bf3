"""How a coupling cuts its input in two: masks, as a lossless split and merge.

Peers multiply by a binary mask and compute parameters for both halves; a split computes them for one.
"""

import torch
from torch import Tensor, nn

from invertible.errors import ConfigError, ShapeError, choose
from invertible.shapes import depth_to_space

Parts = tuple[Tensor, Tensor]


class Partition(nn.Module):
    """A cut of x in two parts: `merge(*split(x))` is x to the bit.

    Args:
        name: name of the cut.
        features: size of axis 1 of x.
        sizes: size of axis 1 of the two parts.

    Attributes:
        key: equal for partitions that cut alike.
    """

    def __init__(self, name: str, features: int, sizes: tuple[int, int]) -> None:
        super().__init__()
        if min(sizes) < 1:
            raise ConfigError(
                f"Partition: expected a feature in either part at least, got {sizes[0]} and {sizes[1]} of {features}. "
                "Use two features or more, and a mask that holds both True and False."
            )
        self.name: str = name
        self.features: int | None = features
        self.sizes: tuple[int, int] = sizes
        self.key: tuple = (name, features)

    def split(self, x: Tensor) -> Parts:
        """Cut x in two."""
        raise TypeError(f"{type(self).__name__}: define split(self, x).")

    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        """Put the two parts together again."""
        raise TypeError(f"{type(self).__name__}: define merge(self, a, b).")

    def extra_repr(self) -> str:
        """Name and sizes, for `print(block)`."""
        return f"{self.name}, {self.features} -> {self.sizes[0]} + {self.sizes[1]}"


class Half(Partition):
    """First half and second half of axis 1; the first is the larger one if the size is odd (NICE, RealNVP, Glow)."""

    def __init__(self, features: int) -> None:
        super().__init__("half", features, (features - features // 2, features // 2))

    def split(self, x: Tensor) -> Parts:
        """Two views: (B, ceil(D/2), ...) and (B, floor(D/2), ...)."""
        a, b = x.split(self.sizes, 1)
        return a, b

    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        """Concatenate along axis 1."""
        return torch.cat((a, b), 1)


class Halves(Partition):
    """Two equal halves of axis 1, whatever its size."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.name, self.features = "halves", None
        self.key = ("halves",)

    def split(self, x: Tensor) -> Parts:
        """Two views: (B, C/2, ...) each.

        Raises:
            ShapeError: if the size is odd.
        """
        if x.shape[1] % 2:
            raise ShapeError(
                f"Halves: expected x with an even size of axis 1, got {tuple(x.shape)}. Pad the channels by one."
            )
        a, b = x.chunk(2, 1)
        return a, b

    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        """Concatenate along axis 1."""
        return torch.cat((a, b), 1)

    def extra_repr(self) -> str:
        """Nothing to tell."""
        return ""


class Alternating(Partition):
    """Even and odd indices of axis 1 (Dinh et al. 2015, section 5.1)."""

    def __init__(self, features: int) -> None:
        super().__init__("alternating", features, (features - features // 2, features // 2))

    def split(self, x: Tensor) -> Parts:
        """Two strided views."""
        return x[:, 0::2], x[:, 1::2]

    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        """Interleave along axis 1."""
        if self.sizes[0] == self.sizes[1]:
            return torch.stack((a, b), 2).flatten(1, 2)
        even = torch.stack((a[:, :-1], b), 2).flatten(1, 2)
        return torch.cat((even, a[:, -1:]), 1)


class Checkerboard(Partition):
    """Black and white squares of an image (Dinh et al. 2017, figure 3), each packed into 2C channels at half size.

    Of every 2 x 2 square the diagonal goes to the first part and the antidiagonal to the second:
    (B, C, H, W) -> 2 x (B, 2C, H/2, W/2), so that nothing is computed for masked pixels.
    """

    def __init__(self, features: int) -> None:
        super().__init__("checkerboard", features, (2 * features, 2 * features))

    def split(self, x: Tensor) -> Parts:
        """Pack the two colours.

        Raises:
            ShapeError: if x is no image of even height and width.
        """
        if x.dim() != 4 or x.shape[2] % 2 or x.shape[3] % 2:
            raise ShapeError(
                f"Checkerboard: expected x of shape (batch, {self.features}, height, width) with even height and "
                f"width, got {tuple(x.shape)}. Pad the image or use mask='half'."
            )
        top, bottom = x[:, :, 0::2], x[:, :, 1::2]
        black = torch.cat((top[..., 0::2], bottom[..., 1::2]), 1)
        white = torch.cat((top[..., 1::2], bottom[..., 0::2]), 1)
        return black, white

    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        """Unpack the two colours."""
        (a_top, a_bottom), (b_top, b_bottom) = a.chunk(2, 1), b.chunk(2, 1)
        packed = torch.stack((a_top, b_top, b_bottom, a_bottom), 2).flatten(1, 2)
        return depth_to_space(packed, 2)


class Mask(Partition):
    """A cut of axis 1 given by the user.

    Args:
        mask: one boolean per feature; True goes to the first part, which a coupling leaves as it is.
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.dim() != 1 or mask.dtype != torch.bool:
            raise ConfigError(
                f"Mask: expected mask to be a boolean tensor of shape (features,), got {mask.dtype} of shape "
                f"{tuple(mask.shape)}. Convert it: mask.bool()."
            )
        kept = int(mask.sum())
        super().__init__("mask", len(mask), (kept, len(mask) - kept))
        self.key = ("mask", tuple(mask.tolist()))
        order = torch.cat((mask.nonzero().flatten(), (~mask).nonzero().flatten()))
        self.order: Tensor
        self.back: Tensor
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def split(self, x: Tensor) -> Parts:
        """Gather the two parts."""
        a, b = x.index_select(1, self.order).split(self.sizes, 1)
        return a, b

    def merge(self, a: Tensor, b: Tensor) -> Tensor:
        """Put every feature back in its place."""
        return torch.cat((a, b), 1).index_select(1, self.back)


PARTITIONS = {"half": Half, "channel": Half, "alternating": Alternating, "checkerboard": Checkerboard}


def partition(mask: str | Tensor, features: int, owner: str = "partition") -> Partition:
    """Build a partition of `features` features or channels.

    Args:
        mask: `"half"`, `"channel"` (the same, as images call it), `"alternating"`, `"checkerboard"`, or a boolean
            tensor of shape (features,).
        features: size of axis 1.
        owner: who asks, for the message.

    Raises:
        ConfigError: if the name is unknown, or a mask has another length.
    """
    if isinstance(mask, Tensor):
        if mask.shape != (features,):
            raise ConfigError(f"{owner}: expected mask of shape ({features},), got {tuple(mask.shape)}.")
        return Mask(mask)
    kind: type[Half] | type[Alternating] | type[Checkerboard] = choose(owner, "mask", mask, PARTITIONS)
    return kind(features)
