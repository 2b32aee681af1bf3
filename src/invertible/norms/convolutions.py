"""Operator norms of convolutions, bounded from above at every image size."""

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from invertible.norms.matrices import matrix_norm
from invertible.norms.rounding import outward
from invertible.norms.symbol import ENOUGH, symbol_norm

# Of the reshaped kernels, no matrix is decomposed that takes more multiplications.
WORK = 2e9


def convolution_norm(
    weight: Tensor, stride: int | Sequence[int] = 1, dilation: int | Sequence[int] = 1, groups: int = 1
) -> float:
    """Upper bound of the operator norm of a convolution with zero padding, at any image size.

    A stride is a convolution of stride 1 over the phases of the image as channels, which changes no norm; a dilation
    alone changes none either. Of that convolution the bound is the least of

    - the supremum of the transfer function, certified (`symbol_norm`): tight for large images, within 0.5 % for all
      but very large kernels;
    - sum over taps |K_tap|_2, since a shift has norm at most 1;
    - sqrt(kh kw) |R|_2 for the kernel reshaped to a matrix (out kh^a kw^b, in kh^(1-a) kw^(1-b)), a, b = 0, 1 (Singla &
      Feizi 2021, theorem 2).

    Exact, to rounding, for 1 x 1 kernels. A transposed convolution has the norm of the convolution with its weight.

    Args:
        weight: shape (out, in/groups, *kernel), any number of spatial axes.
        stride: per axis.
        dilation: per axis.
        groups: number of blocks of channels that do not see each other.

    Returns:
        The bound, `math.inf` if a weight is not finite.
    """
    kernel = weight.detach().cpu().double()
    if not bool(kernel.isfinite().all()):
        return math.inf
    axes = kernel.dim() - 2
    strides, dilations = _per_axis(stride, axes), _per_axis(dilation, axes)
    kernel = kernel.reshape(groups, -1, *kernel.shape[1:])
    if any(each > 1 for each in strides):
        kernel = _polyphase(_dilated(kernel, dilations), strides)
    symbol = symbol_norm(kernel)
    if symbol.slack <= 1 / math.cos(ENOUGH):
        return symbol.value
    return min(symbol.value, _sum_over_taps(kernel), _reshaped(kernel))


def padding_factor(mode: str, before: Sequence[int], after: Sequence[int]) -> float:
    """Norm of padding an image at any size: the root of how often it may repeat a pixel.

    Reflection and wrapping show a pixel up to three times along an axis, itself and once beyond either end; replication
    the outermost one 1 + before + after times, at size 1.

    Args:
        mode: `"zeros"`, `"constant"`, `"reflect"`, `"circular"` or `"replicate"`.
        before: pixels added before each axis; negative ones crop.
        after: pixels added behind it.

    Returns:
        The norm's bound, `math.inf` for another mode.
    """
    if mode in ("zeros", "constant"):
        return 1.0
    factor = 1.0
    for ends in zip(before, after, strict=True):
        first, last = (max(0, end) for end in ends)
        if mode in ("reflect", "circular"):
            factor *= 1 + (first > 0) + (last > 0)
        elif mode == "replicate":
            factor *= 1 + first + last
        else:
            return math.inf
    return outward(math.sqrt(factor))


def _per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def _dilated(kernel: Tensor, dilations: Sequence[int]) -> Tensor:
    """The kernel with the zeros that a dilation puts between taps."""
    sizes = [(size - 1) * step + 1 for size, step in zip(kernel.shape[3:], dilations, strict=True)]
    wide = kernel.new_zeros(*kernel.shape[:3], *sizes)
    wide[(..., *(slice(None, None, step) for step in dilations))] = kernel
    return wide


def _polyphase(kernel: Tensor, strides: Sequence[int]) -> Tensor:
    """The kernel over the stride's phases as channels: (g, out, in, k) -> (g, out, in s, ceil(k/s)) for every axis."""
    axes = len(strides)
    padding = [p for size, s in zip(kernel.shape[3:], strides, strict=True) for p in (-size % s, 0)]
    kernel = functional.pad(kernel, padding[::-1])
    for axis, step in enumerate(strides):
        kernel = kernel.unflatten(3 + 2 * axis, (-1, step))
    outer, phases = [3 + 2 * axis for axis in range(axes)], [4 + 2 * axis for axis in range(axes)]
    return kernel.permute(0, 1, 2, *phases, *outer).flatten(2, 2 + axes)


def _sum_over_taps(kernel: Tensor) -> float:
    taps = kernel.flatten(3).permute(0, 3, 1, 2)
    operations = sum(kernel.shape[1:3]) + taps.shape[1]
    return outward(float(torch.linalg.matrix_norm(taps, 2).sum(1).max()), operations)


def _reshaped(kernel: Tensor) -> float:
    sizes = kernel.shape[3:]
    root, best = math.sqrt(math.prod(sizes)), math.inf
    for on_rows in product((True, False), repeat=len(sizes)):
        rows = [0, *(axis + 2 for axis, up in enumerate(on_rows) if up)]
        columns = [1, *(axis + 2 for axis, up in enumerate(on_rows) if not up)]
        matrices = kernel.permute(0, *(1 + axis for axis in (*rows, *columns)))
        matrices = matrices.flatten(1, len(rows)).flatten(2)
        if min(matrices.shape[1:]) ** 2 * max(matrices.shape[1:]) * len(kernel) <= WORK:
            best = min(best, max(matrix_norm(matrix) for matrix in matrices))
    return outward(root * best)
