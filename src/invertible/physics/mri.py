"""Cartesian magnetic resonance imaging: columns of k-space of one coil, or of several."""

from __future__ import annotations

import torch
from torch import Tensor

from invertible.errors import ConfigError, ShapeError
from invertible.physics.fourier import as_complex, as_real, centred_fft2, centred_ifft2
from invertible.physics.operator import LinearOperator

OWNER = "CartesianMRI"


class CartesianMRI(LinearOperator):
    """The k-space that a Cartesian scan measures of an image, at the points of a mask.

    Without sensitivities every coil has an image of its own: A x = M F x, A^H y = F^H M y, with F the centred
    orthonormal Fourier transform. With them, A x = (M F S_c x)_c for coils c and A^H y = sum_c conj(S_c) F^H M y_c
    (SENSE; Pruessmann et al., 1999). x may also be a volume (B, channels, D, H, W) of slices, transformed one by one.

    `normal` takes one transform and its inverse, along the width alone where the mask is one of columns: it is a
    circular convolution, which commutes with shifts, so that nothing need be centred.

    Args:
        mask: points that are measured, true or 1: (W,), (H, W), (1, H, W), or a mask a sample, (B, 1, 1, W) or
            (B, 1, H, W).
        sensitivities: complex S, (coils, H, W), (B, coils, H, W), or (B, coils, D, H, W) for volumes; `None` for
            images coil by coil.

    Raises:
        ShapeError: if mask or sensitivities, or later x or y, do not have these shapes.
        ConfigError: if the mask holds other values than 0 and 1, or the sensitivities are not finite.

    Example:
        >>> mask = torch.arange(64) % 4 == 0
        >>> mri = CartesianMRI(mask)
        >>> y = mri(torch.randn(8, 2, 64, 64))     # (8, 1, 64, 64), complex
        >>> zero_filled = mri.adjoint(y)           # (8, 2, 64, 64)
    """

    mask: Tensor
    maps: Tensor | None

    def __init__(self, mask: Tensor, sensitivities: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("mask", _mask(mask))
        self.register_buffer("maps", None if sensitivities is None else _maps(sensitivities))

    @property
    def sensitivities(self) -> Tensor | None:
        """S, complex; `None` if there are none."""
        return None if self.maps is None else torch.view_as_complex(self.maps)

    def forward(self, x: Tensor) -> Tensor:
        """Measured k-space.

        Args:
            x: (B, 2, H, W) with sensitivities, (B, 2 coils, H, W) without; or volumes with a depth before the height.

        Returns:
            (B, coils, H, W) or (B, coils, D, H, W), complex, zero where nothing is measured.
        """
        images = self._coil_images(x)
        return centred_fft2(images) * self._mask_for(images)

    def adjoint(self, y: Tensor) -> Tensor:
        """The zero-filled image.

        Args:
            y: (B, coils, H, W) or (B, coils, D, H, W), complex.

        Returns:
            Real, (B, 2, ...) with sensitivities, (B, 2 coils, ...) without.
        """
        if y.dim() not in (4, 5) or not y.is_complex():
            raise ShapeError(
                f"{OWNER}: expected data of shape (batch, coils, height, width), with a depth before the height for "
                f"volumes, of a complex dtype, got {tuple(y.shape)} of {y.dtype}."
            )
        self._check_maps(y, y.shape[1])
        return self._combine(centred_ifft2(y * self._mask_for(y)))

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x, of x's shape."""
        images = self._coil_images(x)
        axes = (-1,) if self.mask.shape[-2] == 1 else (-2, -1)
        kept = torch.fft.ifftshift(self._mask_for(images), axes)
        spectrum = torch.fft.fftn(images, dim=axes, norm="ortho") * kept
        return self._combine(torch.fft.ifftn(spectrum, dim=axes, norm="ortho"))

    def measured(self, y: Tensor) -> Tensor:
        """y at the points of the mask, zero elsewhere."""
        return y * self._mask_for(y)

    def _coil_images(self, x: Tensor) -> Tensor:
        if x.dim() not in (4, 5) or (self.maps is not None and x.shape[1] != 2):
            channels = "2" if self.maps is not None else "2 coils"
            raise ShapeError(
                f"{OWNER}: expected x of shape (batch, {channels}, height, width), with a depth before the height for "
                f"volumes, got {tuple(x.shape)}. Real and imaginary part are neighbouring channels."
            )
        image = as_complex(x)
        sensitivities = self.sensitivities
        if sensitivities is None:
            return image
        self._check_maps(image, sensitivities.shape[1])
        return self._maps_for(sensitivities, image) * image

    def _combine(self, images: Tensor) -> Tensor:
        sensitivities = self.sensitivities
        if sensitivities is None:
            return as_real(images)
        return as_real((self._maps_for(sensitivities, images).conj() * images).sum(1, keepdim=True))

    def _mask_for(self, images: Tensor) -> Tensor:
        _check_fit("mask", self.mask, images)
        return self.mask.unsqueeze(2) if images.dim() == 5 else self.mask

    def _maps_for(self, sensitivities: Tensor, images: Tensor) -> Tensor:
        return sensitivities.unsqueeze(2) if images.dim() > sensitivities.dim() else sensitivities

    def _check_maps(self, images: Tensor, coils: int) -> None:
        sensitivities = self.sensitivities
        if sensitivities is None:
            return
        _check_fit("sensitivities", sensitivities, images)
        volumes = sensitivities.dim() == 5
        if coils != sensitivities.shape[1] or (volumes and sensitivities.shape[2:] != images.shape[2:]):
            raise ShapeError(
                f"{OWNER}: expected {sensitivities.shape[1]} coils of {tuple(sensitivities.shape[2:])}, as its "
                f"sensitivities have, got {coils} of {tuple(images.shape[2:])}."
            )

    def extra_repr(self) -> str:
        """Shapes, as `print` shows them."""
        maps = None if self.maps is None else tuple(self.maps.shape[:-1])
        return f"mask={tuple(self.mask.shape)}, sensitivities={maps}"


def _mask(mask: Tensor) -> Tensor:
    """The mask as a boolean (B or 1, 1, H or 1, W)."""
    if mask.dim() not in (1, 2, 3, 4) or (mask.dim() >= 3 and mask.shape[-3] != 1) or not mask.numel():
        raise ShapeError(
            f"{OWNER}: expected mask of shape (width,), (height, width) or (batch, 1, height or 1, width), got "
            f"{tuple(mask.shape)}. All coils and slices of a sample share a mask."
        )
    if mask.is_complex() or not ((mask == 0) | (mask == 1)).all():
        raise ConfigError(
            f"{OWNER}: expected mask to be boolean or of 0 and 1, got {mask.dtype} with other values. Weights belong "
            "into an operator of their own."
        )
    return (mask != 0).reshape((1,) * (4 - mask.dim()) + mask.shape)


def _maps(sensitivities: Tensor) -> Tensor:
    """The sensitivities as real (B or 1, coils, ..., 2): a module's `.to(dtype)` would drop imaginary parts."""
    if sensitivities.dim() not in (3, 4, 5) or not sensitivities.is_complex() or not sensitivities.numel():
        raise ShapeError(
            f"{OWNER}: expected sensitivities of shape (coils, height, width) or (batch, coils, height, width) of a "
            f"complex dtype, got {tuple(sensitivities.shape)} of {sensitivities.dtype}."
        )
    if not sensitivities.isfinite().all():
        raise ConfigError(f"{OWNER}: expected finite sensitivities, got NaN or infinity. Set them to zero outside.")
    batch = sensitivities[None] if sensitivities.dim() == 3 else sensitivities
    return torch.view_as_real(batch).clone()


def _check_fit(name: str, tensor: Tensor, images: Tensor) -> None:
    """Check batch, height, width and device of mask or sensitivities against those of images."""
    height, width = tensor.shape[-2:]
    batch_fits = len(tensor) in (1, len(images))
    heights = (1, images.shape[-2]) if name == "mask" else (images.shape[-2],)
    if not batch_fits or height not in heights or width != images.shape[-1]:
        raise ShapeError(
            f"{OWNER}: expected images to fit its {name} of shape {tuple(tensor.shape)}, got a batch of {len(images)} "
            f"with {images.shape[-2]} x {images.shape[-1]} pixels."
        )
    if tensor.device != images.device:
        raise ShapeError(
            f"{OWNER}: expected images on {tensor.device}, where its {name} is, got {images.device}. Move one of them."
        )
