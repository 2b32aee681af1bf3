"""How a convolution of an image of given size sits in a convolution on a torus."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from invertible.norms import padding_factor

# Where the torus is large, a coarser grid of frequencies is taken that loses no more than 1 - cos(0.1) = 0.5 %.
ANGLE = 0.1
# Geometries and sizes for which tables of indices are kept.
REMEMBERED = 64


@dataclass(frozen=True)
class Geometry:
    """What a convolution does beside its weight, with one number for every spatial axis.

    Attributes:
        kernel: taps.
        stride: pixels from one output to the next.
        dilation: pixels from one tap to the next.
        before: pixels added before the image.
        after: pixels added behind it.
        mode: what they hold, as torch names it: `"zeros"`, `"circular"`, `"reflect"` or `"replicate"`.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: str

    def reach(self) -> tuple[int, ...]:
        """Pixels from a kernel's first tap to its last."""
        return tuple(d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True))

    def wraps(self) -> bool:
        """Whether padding makes the convolution one on a torus, of which no row comes twice."""
        ends = zip(self.before, self.after, self.reach(), strict=True)
        return self.mode == "circular" and all(before + after <= reach for before, after, reach in ends)

    def padding_norm(self) -> float:
        """Norm of padding the image, where the convolution is not on a torus; zeros have 1."""
        return 1.0 if self.wraps() else padding_factor(self.mode, self.before, self.after)


@dataclass(frozen=True)
class Torus:
    """A convolution on a torus whose norm bounds that of a convolution of an image.

    A stride is undone by taking the image's phases as channels: tap t of the kernel, at pixel d t, belongs to phase
    d t mod s and to place d t // s of that phase.

    Attributes:
        grid: size of the torus along every axis, which is also the number of frequencies.
        twisted: along which axes what leaves the torus comes back with the other sign.
        phases: s along every axis.
        steps: by how much a place turns the phase, along every axis: the dilation, where there is no stride.
        places: size along every axis of the kernel over phases.
        slack: the largest singular value on the grid, times this, bounds the norm.
    """

    grid: tuple[int, ...]
    twisted: tuple[bool, ...]
    phases: tuple[int, ...]
    steps: tuple[int, ...]
    places: tuple[int, ...]
    slack: float

    @lru_cache(maxsize=REMEMBERED)  # noqa: B019 - of values, few and small
    def of_taps(self, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Number of the phase and of the place of every tap, both (taps,)."""
        phases, places = [], []
        for kernel, dilation, s in zip(geometry.kernel, geometry.dilation, self.phases, strict=True):
            pixels = torch.arange(kernel) * (dilation if s > 1 else 1)
            phases.append(pixels % s)
            places.append(pixels // s)
        return _numbered(phases, self.phases), _numbered(places, self.places)


@lru_cache(maxsize=REMEMBERED)
def torus_of(geometry: Geometry, size: tuple[int, ...]) -> Torus:
    """The torus for images of a size.

    Zero padding: rows and columns of the torus' convolution, none twice, once no tap that leaves the image on one side
    comes back on the other, n + max(before, after) pixels without a stride. As nothing comes back, it may do so with
    the other sign, which moves the frequencies by half a step: away from w = 0, where kernels of one sign are largest
    and where no vector on a bounded image is. For [1, 2, 1] the norm is exact then, 2 + 2 cos(pi/(n + 1)), against 4.
    Circular padding is that convolution itself, on n pixels. Other padding is a convolution of the padded image, times
    the norm of padding it.
    """
    slack, before, after, stride = 1.0, geometry.before, geometry.after, geometry.stride
    grid: list[int] = []
    wraps = geometry.wraps()
    if geometry.mode != "zeros" and not wraps:
        slack = geometry.padding_norm()
        size = tuple(n + a + b for n, a, b in zip(size, before, after, strict=True))
        before = after = (0,) * len(stride)
    if wraps:
        # Of a size that is no multiple of the stride the torus has no phases; all its rows are taken then.
        stride = tuple(s if n % s == 0 else 1 for n, s in zip(size, stride, strict=True))
        grid = [n // s for n, s in zip(size, stride, strict=True)]
    else:
        axes = zip(size, geometry.reach(), stride, before, after, strict=True)
        grid = [_enough(*axis) for axis in axes]
    return _coarsened(geometry, grid, stride, slack, wraps=wraps)


def _enough(n: int, reach: int, stride: int, before: int, after: int) -> int:
    """Size of a torus on which zero padding's convolution of n pixels is a part of the circular one."""
    outputs = (n + before + after - reach - 1) // stride + 1
    first, last = before // stride, (before + n - 1) // stride
    furthest = outputs - 1 + reach // stride
    return max(1, outputs, last - first + 1 + max(first, furthest - last))


def _coarsened(geometry: Geometry, grid: list[int], stride: tuple[int, ...], slack: float, *, wraps: bool) -> Torus:
    """With no more frequencies than are needed.

    |K^(w) u|^2 is a trigonometric polynomial; on a grid of M points its maximum is missed by a factor of at most
    cos^2(pi degree/(2 M)), angles of several axes adding up (see `invertible.norms.symbol_norm`).
    """
    places, steps, angle = [], [], 0.0
    for axis, s in enumerate(stride):
        strided = s > 1
        place = geometry.reach()[axis] // s + 1 if strided else geometry.kernel[axis]
        enough = math.ceil(math.pi * (place - 1) * len(stride) / (2 * ANGLE))
        step = 1 if strided else geometry.dilation[axis]
        if place == 1:
            grid[axis] = 1
        elif grid[axis] > enough:
            # The supremum over all frequencies: a dilation only renames them.
            grid[axis], step = enough, 1
            angle += math.pi * (place - 1) / (2 * enough)
        places.append(place)
        steps.append(step)
    twisted = tuple(not wraps and place > 1 for place in places)
    return Torus(tuple(grid), twisted, stride, tuple(steps), tuple(places), slack / math.cos(angle))


def _numbered(indices: list[Tensor], sizes: Sequence[int]) -> Tensor:
    """Numbers of all combinations, the last axis running fastest."""
    total = torch.zeros(1, dtype=torch.long)
    for index, size in zip(indices, sizes, strict=True):
        total = (total[:, None] * size + index).flatten()
    return total
