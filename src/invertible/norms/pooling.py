"""Lipschitz constants of pooling layers, at any image size."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from invertible.norms.convolutions import convolution_norm
from invertible.norms.rounding import outward


def _average(layer: Any) -> float:  # noqa: ANN401
    """A matrix whose rows sum to 1 and whose columns to at most the windows on a pixel: |A|_2^2 <= |A|_1 |A|_inf.

    Where every window has the same weights it is a convolution, too.
    """
    axes = {nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3}
    count = next(axes[kind] for kind in type(layer).__mro__ if kind in axes)
    kernel, stride = _tuple(layer.kernel_size, count), _tuple(layer.stride, count)
    divisor = getattr(layer, "divisor_override", None)
    windows = math.sqrt(math.prod(math.ceil(k / s) for k, s in zip(kernel, stride, strict=True)))
    if divisor:
        windows *= math.prod(kernel) / divisor
    plain = not layer.ceil_mode and (layer.count_include_pad or not any(_tuple(layer.padding, count)))
    if not plain:
        return outward(windows)
    weight = torch.full((1, 1, *kernel), 1 / (divisor or math.prod(kernel)), dtype=torch.float64)
    return min(outward(windows), convolution_norm(weight, stride))


def _maximum(layer: Any) -> float:  # noqa: ANN401
    """Every output is one of its window's numbers; a pixel is in ceil(k gcd(s, d)/s) windows along an axis at most."""
    axes = {nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3}
    count = next(axes[kind] for kind in type(layer).__mro__ if kind in axes)
    sizes = (_tuple(value, count) for value in (layer.kernel_size, layer.stride, layer.dilation))
    return outward(math.sqrt(math.prod(math.ceil(k * math.gcd(s, d) / s) for k, s, d in zip(*sizes, strict=True))))


def _adaptive(layer: Any) -> float:  # noqa: ANN401
    """A pixel is in all windows at most; an axis of size `None` stays as it is."""
    dimension = int(type(layer).__name__[-2]) if type(layer).__name__[-2:] in ("1d", "2d", "3d") else None
    size = layer.output_size
    if dimension is None:
        return math.inf
    return outward(math.sqrt(math.prod(each or 1 for each in _tuple(size, dimension))))


def _tuple(value: int | Sequence[int | None] | None, count: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,) * count


POOLS: dict[type[nn.Module], Callable[[Any], float]] = {
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _average),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), _maximum),
    **dict.fromkeys(
        (
            nn.AdaptiveAvgPool1d,
            nn.AdaptiveAvgPool2d,
            nn.AdaptiveAvgPool3d,
            nn.AdaptiveMaxPool1d,
            nn.AdaptiveMaxPool2d,
            nn.AdaptiveMaxPool3d,
        ),
        _adaptive,
    ),
}
