"""Sensitivities of receive coils and phases of images, drawn at random: smooth, as a scanner's are."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from invertible.errors import ConfigError, require_positive

# The image is the square [-1, 1]^2, whose corners are 1.41 from its centre: wires stay outside.
RADIUS, RADIUS_JITTER = 1.5, 0.2
ANGLE_JITTER = 0.15
DEGREE, WAVES, HIGHEST_WAVE = 3, 8, 2.0


def coil_sensitivities(
    shape: tuple[int, int], coils: int, *, generator: Generator | int | None = None, normalise: bool = True
) -> Tensor:
    """Complex sensitivities of coils in a ring around the image, by the law of Biot and Savart in the plane.

    A coil is cut by the plane in two straight wires z1, z2 of opposite currents. With points as complex numbers z, the
    field of a wire is Bx - i By ~ 1 / (z - z1), so that S ~ 1 / (z - z1) - 1 / (z - z2), smooth wherever there is no
    wire. Angles and distances of the coils vary a little at random.

    Args:
        shape: height and width.
        coils: number of coils.
        generator: of the ring's places.
        normalise: divide by the root of the sum of squares, so that sum_c |S_c|^2 = 1 at every pixel.

    Returns:
        (coils, H, W), complex64.

    Raises:
        ConfigError: if a number is not an integer of at least 1.
    """
    require_positive("coil_sensitivities", coils=coils, height=shape[0], width=shape[1])
    generator = as_generator(generator)
    z = torch.complex(*torch.meshgrid(_axis(shape[1]), -_axis(shape[0]), indexing="xy"))
    offset, *jitter = torch.rand(1 + coils, dtype=torch.float64, generator=generator).tolist()
    radii = RADIUS + RADIUS_JITTER * torch.rand(coils, dtype=torch.float64, generator=generator)
    half_width = min(math.pi / 4, 0.8 * math.pi / coils)
    maps = []
    for coil, (shift, radius) in enumerate(zip(jitter, radii.tolist(), strict=True)):
        angle = 2 * math.pi * (coil + offset + ANGLE_JITTER * (2 * shift - 1)) / coils
        wires = [radius * complex(math.cos(a), math.sin(a)) for a in (angle - half_width, angle + half_width)]
        maps.append(1 / (z - wires[0]) - 1 / (z - wires[1]))
    found = torch.stack(maps)
    if normalise:
        found = found / torch.linalg.vector_norm(found, dim=0)
    return found.to(torch.complex64)


def random_phase(
    shape: tuple[int, int, int], deviation: float = 1.0, *, generator: Generator | int | None = None
) -> Tensor:
    """A smooth phase of a volume, in radians.

    A polynomial of degree 3 in the coordinates of slice, row and column with normal coefficients, as a field that is
    not quite homogeneous gives, plus 8 cosine waves of random direction and at most 2 periods over the volume; the
    two have like deviations. Its mean is 0.

    Args:
        shape: slices, height, width.
        deviation: standard deviation over the volume; 0 for no phase.
        generator: of the coefficients.

    Returns:
        (slices, H, W), float32.

    Raises:
        ConfigError: if the deviation is negative or not finite, or a size is not positive.
    """
    require_positive("random_phase", slices=shape[0], height=shape[1], width=shape[2])
    if not 0 <= deviation < math.inf:
        raise ConfigError(f"random_phase: expected a finite deviation of at least 0, got {deviation}.")
    generator = as_generator(generator)
    w, v, u = (_axis(size).reshape(-1, *(1,) * (2 - place)) for place, size in enumerate(shape))
    parts = [_standardised(part) for part in (_polynomial(w, v, u, generator), _waves(w, v, u, generator))]
    return (deviation * _standardised(parts[0] + parts[1])).float()


def _polynomial(w: Tensor, v: Tensor, u: Tensor, generator: Generator) -> Tensor:
    powers = [
        (a, b, c)
        for a in range(DEGREE + 1)
        for b in range(DEGREE + 1 - a)
        for c in range(DEGREE + 1 - a - b)
        if a + b + c
    ]
    coefficients = torch.randn(len(powers), dtype=torch.float64, generator=generator).tolist()
    found = torch.zeros(len(w), v.shape[-2], u.shape[-1], dtype=torch.float64)
    for coefficient, (a, b, c) in zip(coefficients, powers, strict=True):
        found += coefficient * w**a * v**b * u**c
    return found


def _waves(w: Tensor, v: Tensor, u: Tensor, generator: Generator) -> Tensor:
    # A size of 2 for the square makes a frequency of 1/2 one period over it.
    frequencies = HIGHEST_WAVE / 2 * (2 * torch.rand(WAVES, 3, dtype=torch.float64, generator=generator) - 1)
    starts = torch.rand(WAVES, dtype=torch.float64, generator=generator)
    found = torch.zeros(len(w), v.shape[-2], u.shape[-1], dtype=torch.float64)
    for (f, g, h), start in zip(frequencies.tolist(), starts.tolist(), strict=True):
        found += torch.cos(2 * math.pi * (f * w + g * v + h * u + start))
    return found


def _standardised(x: Tensor) -> Tensor:
    # A volume of one voxel has no deviation.
    x = x - x.mean()
    return x / x.std(correction=0).clamp_min(1e-12)


def _axis(size: int) -> Tensor:
    """Centres of pixels on [-1, 1]."""
    return (2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1


def as_generator(generator: Generator | int | None) -> Generator:
    """A generator made of a seed, or of torch's own state for `None`."""
    if isinstance(generator, Generator):
        return generator
    made = Generator()
    if generator is None:
        made.manual_seed(int(torch.randint(2**62, ())))
    else:
        made.manual_seed(generator)
    return made
