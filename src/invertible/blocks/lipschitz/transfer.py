"""The 2-norm of a convolution at its image size, by its transfer function on a torus."""

import math
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from invertible.blocks.lipschitz.certificate import Certificate, scaled_to_one
from invertible.blocks.lipschitz.eigenvalue import largest_eigenvalue
from invertible.blocks.lipschitz.gram import TrigonometricGrams, half_grid
from invertible.blocks.lipschitz.torus import REMEMBERED, Geometry, Torus, torus_of
from invertible.norms import outward


def convolution_certificate(
    owner: str, weight: Tensor, geometry: Geometry, groups: int, size: tuple[int, ...], *, exact: bool = False
) -> Certificate:
    """Of a convolution of images of a size, in the 2-norm.

    The circular convolution on a torus is block diagonal in frequencies (Sedghi, Gupta & Long 2019), with blocks
    K^(w) = sum over taps of K_t e^(i w t); the convolution of the image is a part of it, so that max_w |K^(w)|_2 over
    the torus' finitely many frequencies bounds its norm. The Gram matrices of K^(w) are made from the kernel's
    autocorrelation.

    Args:
        owner: of the weight, for messages.
        weight: shape (out, in/groups, *kernel).
        geometry: stride, dilation and padding.
        groups: number of blocks of channels that do not see each other.
        size: spatial sizes of the image.
        exact: decompose every Gram matrix in float64, for the least bound that the torus gives.
    """
    scaled, power = scaled_to_one(owner, weight)
    if not bool(scaled.any()):
        return Certificate(0.0, torch.zeros_like(weight), 0.0)
    torus = torus_of(geometry, size)
    kernel = _over_phases(scaled.unflatten(0, (groups, -1)).flatten(3), geometry, torus)
    flat = kernel.shape[1] > kernel.shape[2]
    kernel = kernel.transpose(1, 2) if flat else kernel
    lags, offsets = _autocorrelation(kernel, torus)
    single = weight.dtype == torch.float32 and not exact
    frequencies = half_grid(torus.grid, torus.twisted)
    grams = TrigonometricGrams(lags, offsets, frequencies, kernel.shape[2] * kernel.shape[3], single=single)
    top = largest_eigenvalue(grams, exact=exact)
    frequency, group = divmod(top.index, groups)
    places = _places(torus.places) * torch.tensor(torus.steps)
    slope = torch.zeros_like(kernel)
    slope[group] = _slope(kernel[group], frequencies.phases(places, torch.tensor([frequency]))[0], top.vector)
    slope = slope.transpose(1, 2) if flat else slope
    bound = outward(math.sqrt(top.bound) * torus.slack, 16) * power
    slope = _over_taps(slope, geometry, torus).flatten(0, 1).reshape(weight.shape)
    # Tap by tap an error E has a norm of at most sum |E_t|_F <= sqrt(taps) |E|_F, times that of the padding.
    spread = outward(math.sqrt(scaled[0, 0].numel()) * float(scaled.norm()) * torus.slack, scaled.numel())
    return Certificate(bound, slope.to(weight.dtype), spread * power)


def _over_phases(kernel: Tensor, geometry: Geometry, torus: Torus) -> Tensor:
    """(g, out, in, taps) -> (g, out, in phases, places)."""
    of_phases, of_places = torus.of_taps(geometry)
    groups, rows, columns = kernel.shape[:3]
    wide = kernel.new_zeros(groups, rows, columns, math.prod(torus.phases), math.prod(torus.places))
    wide[:, :, :, of_phases, of_places] = kernel
    return wide.flatten(2, 3)


def _over_taps(wide: Tensor, geometry: Geometry, torus: Torus) -> Tensor:
    """The part of `_over_phases` that comes from the kernel, back again."""
    of_phases, of_places = torus.of_taps(geometry)
    return wide.unflatten(2, (-1, math.prod(torus.phases)))[:, :, :, of_phases, of_places]


@lru_cache(maxsize=REMEMBERED)
def _places(sizes: tuple[int, ...]) -> Tensor:
    """Place of every number, (places, axes)."""
    return torch.tensor(list(product(*(range(size) for size in sizes))), dtype=torch.long)


@lru_cache(maxsize=REMEMBERED)
def _lags(sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Number of the lag from place t to place s, (places t, places s), and the lags by number, (lags, axes)."""
    places = _places(sizes)
    shift = torch.tensor(sizes) - 1
    numbers = torch.zeros(len(places), len(places), dtype=torch.long)
    for axis, size in enumerate(sizes):
        numbers = numbers * (2 * size - 1) + places[:, axis] - places[:, axis, None] + shift[axis]
    return numbers, _places(tuple(2 * size - 1 for size in sizes)) - shift


def _autocorrelation(kernel: Tensor, torus: Torus) -> tuple[Tensor, Tensor]:
    """C_lag = sum over places t of K_(t + lag) K_t^T, (lags, g, n, n), and the turns of the lags, (lags, axes)."""
    groups, rows = kernel.shape[:2]
    stacked = kernel.permute(3, 0, 1, 2).contiguous()
    numbers, offsets = _lags(torus.places)
    lags = kernel.new_zeros(len(offsets), groups, rows, rows)
    # One place at a time, so that no sum is split between threads in an order of their own.
    for place, index in enumerate(numbers.to(kernel.device)):
        lags[index] += stacked @ stacked[place].mT
    return lags, offsets * torch.tensor(torus.steps)


def _slope(kernel: Tensor, angles: Tensor, near: Tensor) -> Tensor:
    """d sigma/d K for sigma = Re u^H K^(w) v with u the given vector and v = K^(w)^H u/sigma: (n, m, places)."""
    turns = torch.complex(angles.cos(), angles.sin()).to(kernel.device)
    u = near.to(torch.complex128)
    transfer = kernel.to(turns.dtype) @ turns
    v = transfer.mH @ u
    v = v / v.norm()
    return (u.conj()[:, None, None] * v[:, None] * turns).real
