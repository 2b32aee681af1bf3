"""The residual function of the i-RIM: convolutions on a coarser grid, and a gate."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from invertible.blocks.nets import NetFactory
from invertible.blocks.weight_norm import WeightNormConv
from invertible.errors import ConfigError, require_positive
from invertible.shapes import check_input

Factor = int | Sequence[int]


class GatedConvNet(nn.Module):
    """G(x) = a sigmoid(b), (a, b) = U relu(K relu(D x)), weight-normalised (Putzky & Welling 2019).

    D is a convolution whose kernel and stride are d, so that K, of kernel 3, works on images smaller by d and sees d
    times as far; U is the transposed convolution of kernel and stride d, without bias. The gate is a gated linear unit
    (Dauphin et al. 2017).

    Sizes that d does not divide are padded with zeros at the end inside, and the result is cropped: G may be any
    function, so that a coupling by it stays exactly invertible. (The paper's code gives no update to the pixels of the
    rest.)

    Args:
        in_channels: channels of x.
        out_channels: channels of G(x).
        hidden: h, channels inside.
        factor: d; with three spatial axes an integer stands for (1, d, d), for slices are often thicker than pixels:
            give three to downsample slices too.
        spatial_dims: number of spatial axes, 1 to 3.
        gated: with the gated linear unit; without it G(x) = U relu(K relu(D x)).

    Shapes:
        (B, in_channels, *spatial) -> (B, out_channels, *spatial), any sizes.

    Cost: with m = out_channels, or 2 out_channels if gated, d^s h (in_channels + m) + 3^s h^2 + 5 h parameters, d^s
    the product of the factors over s axes.

    Raises:
        ConfigError: if a number is not positive, or there are not as many factors as axes.

    Example:
        >>> net = GatedConvNet(32, 32, hidden=64, factor=4)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int,
        factor: Factor = 1,
        *,
        spatial_dims: int = 2,
        gated: bool = True,
    ) -> None:
        super().__init__()
        require_positive("GatedConvNet", in_channels=in_channels, out_channels=out_channels, hidden=hidden)
        self.factors, self.gated = factors_of(factor, spatial_dims), gated
        self.channels, self.spatial_dims = in_channels, spatial_dims
        self.down = WeightNormConv(in_channels, hidden, self.factors, stride=self.factors)
        self.middle = WeightNormConv(hidden, hidden, (3,) * spatial_dims, padding=(1,) * spatial_dims)
        out = 2 * out_channels if gated else out_channels
        self.up = WeightNormConv(hidden, out, self.factors, stride=self.factors, bias=False, transposed=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *spatial) -> (B, out_channels, *spatial)."""
        check_input("GatedConvNet", x, self.channels, self.spatial_dims)
        sizes = x.shape[2:]
        missing = [-size % factor for size, factor in zip(sizes, self.factors, strict=True)]
        if any(missing):
            x = functional.pad(x, [count for more in reversed(missing) for count in (0, more)])
        hidden = functional.relu(self.down(x), inplace=True)
        y = self.up(functional.relu(self.middle(hidden), inplace=True))
        if any(missing):
            y = y[(..., *(slice(size) for size in sizes))]
        return functional.glu(y, 1) if self.gated else y

    def extra_repr(self) -> str:
        """Options, for `print(net)`."""
        return f"factors={self.factors}, gated={self.gated}"


def factors_of(factor: Factor, spatial_dims: int) -> tuple[int, ...]:
    """One downsampling factor for each axis; an integer leaves the slices of volumes as they are.

    Raises:
        ConfigError: if there are not as many as axes, or one is not positive.
    """
    if spatial_dims not in (1, 2, 3):
        raise ConfigError(f"GatedConvNet: expected spatial_dims of 1, 2 or 3, got {spatial_dims}.")
    if isinstance(factor, int):
        factor = (1, factor, factor) if spatial_dims == 3 else (factor,) * spatial_dims
    if len(factor) != spatial_dims:
        raise ConfigError(
            f"GatedConvNet: expected factor to be an integer or {spatial_dims} of them, one for each spatial axis, got "
            f"{tuple(factor)}."
        )
    require_positive("GatedConvNet", **{f"factor[{i}]": size for i, size in enumerate(factor)})
    return tuple(factor)


def gated_convnet(hidden: int, factor: Factor = 1, spatial_dims: int = 2) -> NetFactory:
    """Factory of `GatedConvNet`."""
    return lambda in_features, out_features: GatedConvNet(
        in_features, out_features, hidden, factor, spatial_dims=spatial_dims
    )
