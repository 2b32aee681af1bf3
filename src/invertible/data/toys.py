"""Densities in the plane, drawn from a seed.

The shapes and scales are those in which the literature shows flows (Grathwohl et al. 2019, FFJORD, figure 2, for
most of them): all lie within about |x| < 5. Each function draws (n, 2) points in float64 and (n,) labels, or `None`.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from invertible.data.dataset import Split
from invertible.data.splits import Found
from invertible.errors import require_positive

Drawn = tuple[Tensor, Tensor | None]


def moons(n: int, generator: Generator) -> Drawn:
    """Two half circles of radius 2 that reach into each other; label: upper or lower."""
    label = _choice(n, 2, generator)
    angle, sign = math.pi * _uniform(n, generator), 1 - 2 * label
    arc = torch.stack([sign * angle.cos() + label, sign * angle.sin() + label / 2], 1)
    centre = torch.tensor([0.5, 0.25], dtype=torch.float64)
    return 2 * (arc - centre + 0.1 * _normal(n, generator)), label


def circles(n: int, generator: Generator) -> Drawn:
    """Two circles, of radius 3 and 1.5, blurred by 0.24; label: which."""
    return _circles(n, (3.0, 1.5), 0.24, generator)


def rings(n: int, generator: Generator) -> Drawn:
    """Four circles, of radius 3, 2.25, 1.5 and 0.75, blurred by 0.08; label: which."""
    return _circles(n, (3.0, 2.25, 1.5, 0.75), 0.08, generator)


def checkerboard(n: int, generator: Generator) -> Drawn:
    """Uniform on the eight dark fields, of side 2, of a board [-4, 4]^2; no labels. The density is 1/32 there."""
    column, row = _choice(n, 4, generator), _choice(n, 2, generator)
    corner = torch.stack([column, 2 * row + column % 2], 1)
    return 2 * (corner + torch.rand(n, 2, generator=generator, dtype=torch.float64)) - 4, None


def two_gaussians(n: int, generator: Generator) -> Drawn:
    """Normal distributions of deviation 0.5 about (2, 0) and (-2, 0); label: which."""
    return _gaussians(n, 2, 2.0, 0.5, generator)


def eight_gaussians(n: int, generator: Generator) -> Drawn:
    """Normal distributions of deviation 0.5/√2 about eight points on a circle of radius 4/√2; label: which."""
    return _gaussians(n, 8, 4 / math.sqrt(2), 0.5 / math.sqrt(2), generator)


def pinwheel(n: int, generator: Generator) -> Drawn:
    """Five bent arms (Johnson et al. 2016): normal along the radius, turned by 0.25 exp(radius); label: which arm."""
    label = _choice(n, 5, generator)
    x, y = (_normal(n, generator) * torch.tensor([0.3, 0.1], dtype=torch.float64)).unbind(1)
    x = x + 1
    angle = 2 * math.pi * label / 5 + 0.25 * x.exp()
    return 2 * torch.stack([x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()], 1), label


def two_spirals(n: int, generator: Generator) -> Drawn:
    """Two spirals of one and a half turns, one the other mirrored at the origin; label: which."""
    label = _choice(n, 2, generator)
    angle = 3 * math.pi * _uniform(n, generator).sqrt()
    jitter = torch.rand(n, 2, generator=generator, dtype=torch.float64) / 2
    arm = torch.stack([-angle.cos() * angle, angle.sin() * angle], 1) + jitter
    return (1 - 2 * label)[:, None] * arm / 3 + 0.1 * _normal(n, generator), label


def swiss_roll(n: int, generator: Generator) -> Drawn:
    """A spiral of one and a half turns, seen along the roll's axis (Marsland 2009); no labels."""
    angle = 1.5 * math.pi * (1 + 2 * _uniform(n, generator))
    roll = torch.stack([angle * angle.cos(), angle * angle.sin()], 1)
    return (roll + _normal(n, generator)) / 5, None


def s_curve(n: int, generator: Generator) -> Drawn:
    """Two half circles that make an S, seen along its surface; no labels."""
    angle = 3 * math.pi * (_uniform(n, generator) - 0.5)
    curve = torch.stack([angle.sin(), angle.sign() * (angle.cos() - 1)], 1)
    return 1.5 * (curve + 0.1 * _normal(n, generator)), None


TOYS: dict[str, Callable[[int, Generator], Drawn]] = {
    "moons": moons,
    "circles": circles,
    "rings": rings,
    "checkerboard": checkerboard,
    "two-gaussians": two_gaussians,
    "eight-gaussians": eight_gaussians,
    "pinwheel": pinwheel,
    "two-spirals": two_spirals,
    "swiss-roll": swiss_roll,
    "s-curve": s_curve,
}


def read_toy(name: str, *, seed: int = 0, samples: int = 10_000) -> Found:
    """Draw a toy data set: vectors (samples, 2).

    Args:
        name: a key of `TOYS`.
        seed: of the draw.
        samples: number of samples, all parts together.

    Raises:
        ConfigError: if `samples` is not an integer of at least 1.
    """
    require_positive(name, samples=samples)
    x, y = TOYS[name](samples, torch.Generator().manual_seed(seed))
    classes = None if y is None else tuple(str(label) for label in range(CLASSES[name]))
    return Found(Split(x.float(), y), f"drawn by invertible.data.toys with seed {seed}", classes=classes)


# A small sample may miss a class, so their number is not counted.
CLASSES = {
    "moons": 2,
    "circles": 2,
    "rings": 4,
    "two-gaussians": 2,
    "eight-gaussians": 8,
    "pinwheel": 5,
    "two-spirals": 2,
}


def _uniform(n: int, generator: Generator) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64)


def _normal(n: int, generator: Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def _choice(n: int, choices: int, generator: Generator) -> Tensor:
    return torch.randint(choices, (n,), generator=generator)


def _unit(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], 1)


def _circles(n: int, radii: tuple[float, ...], deviation: float, generator: Generator) -> Drawn:
    label = _choice(n, len(radii), generator)
    radius = torch.tensor(radii, dtype=torch.float64)[label]
    circle = radius[:, None] * _unit(2 * math.pi * _uniform(n, generator))
    return circle + deviation * _normal(n, generator), label


def _gaussians(n: int, count: int, radius: float, deviation: float, generator: Generator) -> Drawn:
    label = _choice(n, count, generator)
    return radius * _unit(2 * math.pi * label.double() / count) + deviation * _normal(n, generator), label
