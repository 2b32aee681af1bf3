"""k-space simulated from magnitude images: a smooth phase, coils, white noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from invertible.data.mri.coils import as_generator, coil_sensitivities, random_phase
from invertible.errors import ConfigError, DomainError, ShapeError, require_positive
from invertible.physics.fourier import centred_fft2, centred_ifft2, root_sum_of_squares

# What is brighter than this part of the brightest is the object.
OBJECT = 0.1
BRIGHTEST = 0.999


@dataclass(frozen=True)
class Simulation:
    """How k-space is simulated.

    Attributes:
        size: height and width of k-space and target. Images that are larger are reduced to it, others padded by zeros.
        coils: number of coils; with 1, k-space is single-coil and the coil's sensitivity 1.
        snr: 10 log10 of the mean of |x|^2 over the object over the variance of the complex noise, of a coil and pixel,
            in decibels; `None` for no noise.
        phase: standard deviation of the image's phase, in radians.

    Raises:
        ConfigError: if a value is out of its range.
    """

    size: int = 128
    coils: int = 1
    snr: float | None = 30.0
    phase: float = 1.0

    def __post_init__(self) -> None:
        require_positive("Simulation", size=self.size, coils=self.coils)
        if self.snr is not None and not math.isfinite(self.snr):
            raise ConfigError(f"Simulation: expected a finite snr in decibels, or None for no noise, got {self.snr}.")
        if not 0 <= self.phase < math.inf:
            raise ConfigError(f"Simulation: expected a finite phase of at least 0 radians, got {self.phase}.")

    def __str__(self) -> str:
        coils = "one coil" if self.coils == 1 else f"{self.coils} coils"
        noise = "no noise" if self.snr is None else f"white noise at {self.snr:g} dB"
        return f"{self.size} x {self.size} pixels, {coils}, {noise}, phase of deviation {self.phase:g} rad"


@dataclass(frozen=True, eq=False)
class SimulatedVolume:
    """Simulated k-space and what it came from.

    Attributes:
        kspace: (slices, H, W) for one coil, (slices, coils, H, W) for several, complex64, noise included.
        target: magnitudes (slices, H, W) reconstructed from all of k-space, noise included, float32: the absolute value
            for one coil, the root of the sum of squares for several, as fastMRI has them.
        noise_free: the magnitudes without noise, (slices, H, W), float32.
        sensitivities: (coils, H, W), complex64, whose squares sum to 1; `None` for one coil.
        noise: standard deviation of the complex noise of a coil and pixel.
    """

    kspace: Tensor
    target: Tensor
    noise_free: Tensor
    sensitivities: Tensor | None
    noise: float


def simulate(
    images: Tensor,
    simulation: Simulation | None = None,
    *,
    pixel: tuple[float, float] = (1.0, 1.0),
    generator: Generator | int | None = None,
) -> SimulatedVolume:
    """Simulate the k-space that a scan of magnitude images might have measured: y_c = F(S_c x) + n_c.

    x is the images, brought to square pixels and to a size, divided by their 99.9th percentile, with a smooth random
    phase, without which k-space would be conjugate symmetric and half of it known from the other half; S_c smooth
    sensitivities; n_c white complex noise; F the centred orthonormal Fourier transform.

    It is no substitute for measured k-space: there is no relaxation during the readout, no motion, no inhomogeneity, no
    correlation of coils, and a magnitude image's own noise and rounding count as anatomy.

    Args:
        images: magnitudes (slices, h, w), at least 0.
        simulation: how.
        pixel: height and width of a pixel in the images, in any unit.
        generator: of everything that is drawn.

    Raises:
        ShapeError: if the images are not of three axes and a floating-point dtype.
        DomainError: if a value is negative or not finite, or all are 0.

    Example:
        >>> scan = simulate(torch.rand(4, 50, 40), Simulation(size=64, coils=4), generator=0)
        >>> scan.kspace.shape
        torch.Size([4, 4, 64, 64])
    """
    simulation = simulation or Simulation()
    generator = as_generator(generator)
    _check(images)
    x = _fit(images.float(), pixel, simulation.size)
    x = x / brightest(x)
    where = x > OBJECT
    shape = (simulation.size, simulation.size)
    z = torch.polar(x, random_phase((len(x), *shape), simulation.phase, generator=generator))
    maps = None if simulation.coils == 1 else coil_sensitivities(shape, simulation.coils, generator=generator)
    kspace = centred_fft2(z if maps is None else maps * z[:, None])
    noise = 0.0
    if simulation.snr is not None:
        noise = float(x[where].double().square().mean().sqrt()) * 10 ** (-simulation.snr / 20)
        kspace = kspace + noise * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
    reconstructed = centred_ifft2(kspace)
    target = reconstructed.abs() if maps is None else root_sum_of_squares(reconstructed, 1)
    return SimulatedVolume(kspace, target, x, maps, noise)


def brightest(images: Tensor) -> Tensor:
    """The 99.9th percentile of what is not 0: the maximum may be a single bright vessel."""
    values = images[images > 0]
    # torch.quantile refuses more than 2^24 values.
    return values.kthvalue(max(1, math.ceil(BRIGHTEST * values.numel()))).values


def _check(images: Tensor) -> None:
    if images.dim() != 3 or not images.is_floating_point() or not images.numel():
        raise ShapeError(
            "simulate: expected images of shape (slices, height, width) and a floating-point dtype, got "
            f"{tuple(images.shape)} of {images.dtype}."
        )
    if not images.isfinite().all() or images.min() < 0 or images.max() == 0:
        raise DomainError("simulate: expected magnitudes, finite and at least 0 and not all 0, got others.")


def _fit(images: Tensor, pixel: tuple[float, float], size: int) -> Tensor:
    """Images of square pixels, as large as the finer edge or as large as needed for the image to fit, padded."""
    extent = [number * edge for number, edge in zip(images.shape[1:], pixel, strict=True)]
    edge = max(min(pixel), max(extent) / size)
    shape = [min(size, max(1, round(length / edge))) for length in extent]
    if shape != list(images.shape[1:]):
        # Bilinear: cubic kernels overshoot below 0.
        images = functional.interpolate(images[None], shape, mode="bilinear", antialias=True, align_corners=False)[0]
    top, left = ((size - length) // 2 for length in shape)
    return functional.pad(images, (left, size - shape[1] - left, top, size - shape[0] - top))
