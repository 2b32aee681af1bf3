"""Complex images as real channels, and the Fourier transform of magnetic resonance imaging: centred and orthonormal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invertible.errors import ConfigError, ShapeError
from invertible.shapes import at_least_float32

AXES = (-2, -1)


def as_complex(x: Tensor) -> Tensor:
    """Complex images of real channels: (B, 2c, *spatial) to (B, c, *spatial).

    Channels are [re_1, im_1, re_2, im_2, ...]. Half precision is raised to float32, for which there are transforms.

    Raises:
        ShapeError: if axis 1 is missing or odd, or x is not of a floating-point dtype.
    """
    if x.dim() < 2 or x.shape[1] % 2 or not x.is_floating_point():
        raise ShapeError(
            f"as_complex: expected x of shape (batch, 2 c, ...) of a floating-point dtype, got {tuple(x.shape)} of "
            f"{x.dtype}. Real and imaginary parts are neighbouring channels: [re_1, im_1, re_2, im_2, ...]."
        )
    x = at_least_float32(x)
    return torch.complex(x[:, 0::2], x[:, 1::2])


def as_real(z: Tensor) -> Tensor:
    """Real channels of complex images, the inverse of `as_complex`: (B, c, *spatial) to (B, 2c, *spatial).

    Raises:
        ShapeError: if axis 1 is missing or z is not complex.
    """
    if z.dim() < 2 or not z.is_complex():
        raise ShapeError(
            f"as_real: expected z of shape (batch, c, ...) of a complex dtype, got {tuple(z.shape)} of {z.dtype}."
        )
    return torch.stack((z.real, z.imag), 2).flatten(1, 2)


def centred_fft2(x: Tensor) -> Tensor:
    """The orthonormal Fourier transform over the last two axes, with the origin of image and k-space in the middle.

    The origin is at index N // 2 of an axis of N, as in fastMRI's `fft2c` (Zbontar et al., 2018). It is unitary: its
    inverse, `centred_ifft2`, is its adjoint.

    Args:
        x: images (..., H, W), complex or real.

    Returns:
        k-space (..., H, W), complex.
    """
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(x, AXES), norm="ortho"), AXES)


def centred_ifft2(k: Tensor) -> Tensor:
    """The inverse of `centred_fft2`, which is its adjoint: (..., H, W) to (..., H, W)."""
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(k, AXES), norm="ortho"), AXES)


def centre_crop(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The middle of the last two axes: (..., H, W) to (..., h, w), beginning at (H - h) // 2 as fastMRI's.

    Raises:
        ShapeError: if it is larger than x.
        ConfigError: if the shape is not of two positive integers.
    """
    if len(shape) != 2 or any(side < 1 for side in shape):
        raise ConfigError(f"centre_crop: expected shape to be (height, width), both at least 1, got {tuple(shape)}.")
    if x.dim() < 2 or any(side > size for side, size in zip(shape, x.shape[-2:], strict=True)):
        raise ShapeError(
            f"centre_crop: expected x of shape (..., height, width) with at least {tuple(shape)} pixels, got "
            f"{tuple(x.shape)}. Crop to a smaller shape, or pad x."
        )
    top, left = ((size - side) // 2 for side, size in zip(shape, x.shape[-2:], strict=True))
    return x[..., top : top + shape[0], left : left + shape[1]]


def root_sum_of_squares(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """sqrt(sum |x|^2) over an axis, such as that of the coils; its gradient at zero is zero, not NaN.

    Args:
        x: complex images (B, coils, H, W), or their real channels (B, 2 coils, H, W), of which it is the same.
        dim: the axis that vanishes.
    """
    return torch.linalg.vector_norm(at_least_float32(x), dim=dim)
