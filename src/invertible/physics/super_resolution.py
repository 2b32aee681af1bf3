"""Super-resolution: a smaller image is observed, by subsampling after a blur or by averages of squares."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from invertible.errors import ConfigError, ShapeError, require_positive
from invertible.physics.blur import Blur
from invertible.physics.operator import LinearOperator
from invertible.shapes import check_input

POOLING = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


class Downsampling(LinearOperator):
    """Every f-th pixel of the blurred image along every axis: A = S H, A^T = H^T S^T, S^T fills in zeros.

    Args:
        factor: f; sizes of x are multiples of it.
        kernel: h of the blur, as `Blur` takes it; `None` for no blur.
        padding: of the blur, one that keeps the size.
        spatial_dims: of the blur's kernel, as `Blur` takes it.

    Raises:
        ConfigError: if an argument is out of range.
        ShapeError: if sizes of x are no multiples of the factor.

    Example:
        >>> operator = Downsampling(4, gaussian_kernel(1.5))
        >>> y = operator(torch.rand(8, 3, 64, 64))     # (8, 3, 16, 16)
    """

    def __init__(
        self, factor: int, kernel: Tensor | None = None, padding: str = "circular", *, spatial_dims: int | None = None
    ) -> None:
        super().__init__()
        require_positive("Downsampling", factor=factor)
        if padding == "valid":
            raise ConfigError("Downsampling: expected padding that keeps the size, got 'valid'. Use 'zero'.")
        self.factor = factor
        self.blur = None if kernel is None else Blur(kernel, padding, spatial_dims=spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """The smaller images: (B, c, *spatial) to (B, c, *spatial / f)."""
        _check_multiple("Downsampling", x, self.factor)
        blurred = x if self.blur is None else self.blur(x)
        return blurred[(..., *(slice(None, None, self.factor),) * (x.dim() - 2))]

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y: (B, c, *spatial / f) to (B, c, *spatial)."""
        check_input("Downsampling", y, None, None)
        filled = y.new_zeros((*y.shape[:2], *(size * self.factor for size in y.shape[2:])))
        filled[(..., *(slice(None, None, self.factor),) * (y.dim() - 2))] = y
        return filled if self.blur is None else self.blur.adjoint(filled)


class AveragePooling(LinearOperator):
    """Means of squares (or cubes) of side f that do not overlap; the adjoint spreads y / f^d over each, d axes.

    A A^T is 1 / f^d times the identity.

    Args:
        factor: f; sizes of x are multiples of it.

    Raises:
        ConfigError: if the factor is no positive integer.
        ShapeError: if sizes of x are no multiples of it, or there are more than three spatial axes.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        require_positive("AveragePooling", factor=factor)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """The smaller images: (B, c, *spatial) to (B, c, *spatial / f)."""
        _check_multiple("AveragePooling", x, self.factor)
        return POOLING[x.dim() - 3](x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y: (B, c, *spatial / f) to (B, c, *spatial)."""
        check_input("AveragePooling", y, None, None)
        spread = y / self.factor ** (y.dim() - 2)
        for axis in range(2, y.dim()):
            spread = spread.repeat_interleave(self.factor, axis)
        return spread


def _check_multiple(owner: str, x: Tensor, factor: int) -> None:
    check_input(owner, x, None, None)
    if x.dim() not in (3, 4, 5) or any(size % factor for size in x.shape[2:]):
        raise ShapeError(
            f"{owner}: expected x of 1 to 3 spatial axes whose sizes are multiples of {factor}, got {tuple(x.shape)}. "
            "Crop or pad it first."
        )
