"""Padding of images by index, with the exact adjoint of every mode."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from invertible.errors import ConfigError, ShapeError

MODES = ("circular", "reflect", "replicate", "zero", "valid")
Margins = Sequence[tuple[int, int]]


def check_mode(owner: str, padding: str) -> None:
    """Check the name of a mode.

    Raises:
        ConfigError: naming the modes.
    """
    if padding not in MODES:
        raise ConfigError(f"{owner}: expected padding to be one of {', '.join(map(repr, MODES))}, got {padding!r}.")


def pad(owner: str, x: Tensor, margins: Margins, padding: str) -> Tensor:
    """Extend images (B, c, *spatial) by margins (before, after) of every spatial axis, in any mode but "circular".

    Raises:
        ShapeError: if x is smaller than the reflection that is asked of it.
    """
    if padding == "valid":
        return x
    if padding == "zero":
        return functional.pad(x, [side for pair in reversed(margins) for side in pair])
    for axis, (before, after) in enumerate(margins, 2):
        x = x.index_select(axis, _sources(owner, x.shape[axis], before, after, padding).to(x.device))
    return x


def pad_adjoint(owner: str, y: Tensor, margins: Margins, padding: str) -> Tensor:
    """The adjoint of `pad`: copies are added to the pixel that they are of, zeros are cut off."""
    if padding == "valid":
        return y
    for axis, (before, after) in enumerate(margins, 2):
        size = y.shape[axis] - before - after
        if padding == "zero":
            y = y.narrow(axis, before, size)
        else:
            sources = _sources(owner, size, before, after, padding).to(y.device)
            shape = (*y.shape[:axis], size, *y.shape[axis + 1 :])
            y = y.new_zeros(shape).index_add(axis, sources, y)
    return y


def _sources(owner: str, size: int, before: int, after: int, padding: str) -> Tensor:
    """Of which pixel each padded one is a copy."""
    index = torch.arange(-before, size + after)
    if padding == "replicate":
        return index.clamp(0, size - 1)
    if max(before, after) >= size:
        raise ShapeError(
            f"{owner}: expected x of at least {max(before, after) + 1} pixels along every axis for padding 'reflect', "
            f"got {size}. Use a smaller kernel, or padding='zero'."
        )
    return size - 1 - (index.abs() - (size - 1)).abs()
