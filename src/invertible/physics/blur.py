"""Blurring: convolution of every channel with a kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from invertible.errors import ConfigError, ShapeError
from invertible.physics.operator import LinearOperator
from invertible.physics.padding import check_mode, pad, pad_adjoint
from invertible.shapes import check_input

OWNER = "Blur"
CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


class Blur(LinearOperator):
    """Convolution with a kernel: (A x)[n] = sum_k h[k] x[n + k // 2 - k], the kernel's middle at index size // 2.

    The adjoint correlates with the kernel and folds the padding back, for every mode of padding. Circular blurs go
    through the fast Fourier transform, where `normal` is one multiplication by |H|^2 and large kernels cost no more
    than small ones; the other modes convolve directly.

    Args:
        kernel: h, (*k), or (B, c, *k) with 1 for a batch or channels that share it; one to three spatial axes.
        padding: "circular", "reflect" (without the edge), "replicate", "zero" (all of which keep the size) or "valid"
            (sizes n - k + 1, only what is wholly inside).
        spatial_dims: number of spatial axes; by default all axes of a kernel of at most three axes.

    Raises:
        ConfigError: if the kernel is not finite, not real or not of this many axes, or the padding is unknown.
        ShapeError: if an image does not fit.

    Example:
        >>> blur = Blur(gaussian_kernel(1.5))
        >>> y = blur(torch.rand(8, 3, 64, 64))
    """

    kernel: Tensor

    def __init__(self, kernel: Tensor, padding: str = "circular", *, spatial_dims: int | None = None) -> None:
        super().__init__()
        check_mode(OWNER, padding)
        self.spatial_dims = kernel.dim() if spatial_dims is None else spatial_dims
        if self.spatial_dims not in (1, 2, 3) or kernel.dim() - self.spatial_dims not in (0, 2) or not kernel.numel():
            raise ConfigError(
                f"{OWNER}: expected kernel of 1 to 3 spatial axes, alone or behind batch and channels, got "
                f"{tuple(kernel.shape)}. Give spatial_dims for a kernel a sample or channel."
            )
        if not kernel.is_floating_point() or not kernel.isfinite().all():
            raise ConfigError(
                f"{OWNER}: expected kernel of finite real numbers, got {kernel.dtype} or NaN or infinity."
            )
        self.padding = padding
        self.register_buffer("kernel", kernel if kernel.dim() > self.spatial_dims else kernel[None, None])

    def forward(self, x: Tensor) -> Tensor:
        """The blurred images: (B, c, *spatial) to the same, or smaller for "valid"."""
        self._check(x)
        if self.padding == "circular":
            return self._filter(x, lambda transfer: transfer)
        sizes = self.kernel.shape[2:]
        if self.padding == "valid" and any(k > n for k, n in zip(sizes, x.shape[2:], strict=True)):
            raise ShapeError(f"{OWNER}: expected x of at least {tuple(sizes)} pixels, got {tuple(x.shape[2:])}.")
        return self._convolve(CONVOLUTIONS, pad(OWNER, x, self._margins(), self.padding))

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y: (B, c, *spatial) to the same, or larger for "valid"."""
        self._check(y)
        if self.padding == "circular":
            return self._filter(y, torch.conj)
        return pad_adjoint(OWNER, self._convolve(TRANSPOSED, y), self._margins(), self.padding)

    def normal(self, x: Tensor) -> Tensor:
        """A^T A x."""
        if self.padding != "circular":
            return super().normal(x)
        self._check(x)
        return self._filter(x, lambda transfer: transfer.real**2 + transfer.imag**2)

    def _filter(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Multiply the spectrum of x by that of the kernel, changed."""
        axes, sizes, spatial = tuple(range(2, x.dim())), self.kernel.shape[2:], x.shape[2:]
        if any(k > n for k, n in zip(sizes, spatial, strict=True)):
            raise ShapeError(f"{OWNER}: expected x of at least {tuple(sizes)} pixels, got {tuple(spatial)}.")
        margins = [side for k, n in zip(reversed(sizes), reversed(spatial), strict=True) for side in (0, n - k)]
        kernel = functional.pad(self.kernel.to(x.dtype), margins).roll([-(k // 2) for k in sizes], axes)
        spectrum = torch.fft.rfftn(x, dim=axes) * change(torch.fft.rfftn(kernel, dim=axes))
        return torch.fft.irfftn(spectrum, s=tuple(spatial), dim=axes)

    def _convolve(self, functions: tuple[Callable[..., Tensor], ...], x: Tensor) -> Tensor:
        """Correlate with the mirrored kernel, or the transpose of that, every channel of every sample on its own."""
        mirrored = self.kernel.to(x.dtype).flip(tuple(range(2, x.dim())))
        weight = mirrored.expand(*x.shape[:2], *mirrored.shape[2:]).flatten(0, 1).unsqueeze(1)
        y = functions[self.spatial_dims - 1](x.flatten(0, 1)[None], weight, groups=len(weight))
        return y[0].unflatten(0, x.shape[:2])

    def _margins(self) -> list[tuple[int, int]]:
        return [(k - 1 - k // 2, k // 2) for k in self.kernel.shape[2:]]

    def _check(self, x: Tensor) -> None:
        check_input(OWNER, x, None, self.spatial_dims, self.kernel)
        if any(own not in (1, size) for own, size in zip(self.kernel.shape[:2], x.shape[:2], strict=True)):
            raise ShapeError(
                f"{OWNER}: expected batch and channels of x to be those of its kernel, {tuple(self.kernel.shape[:2])}, "
                f"got {tuple(x.shape[:2])}. A kernel of 1 serves all."
            )

    def extra_repr(self) -> str:
        """Kernel and padding, as `print` shows them."""
        return f"kernel={tuple(self.kernel.shape)}, padding={self.padding!r}"
