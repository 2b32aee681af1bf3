"""Batches sample by sample: which rows of a condition, in which dtype, and the largest of what was measured."""

import math

import torch
from torch import Tensor


def rows_of(condition: Tensor | None, rows: Tensor | slice) -> Tensor | None:
    """The rows of a condition, if there is one."""
    return None if condition is None else condition[rows]


def cast_floating(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """x in another dtype, unless it is `None` or holds integers."""
    return x if x is None or not x.is_floating_point() else x.to(dtype)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """(B,) to (B, 1, ..., 1), of as many axes as `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def largest(values: Tensor) -> float:
    """The largest that was measured, NaN if nothing was."""
    measured = values[~values.isnan()]
    return measured.max().item() if len(measured) else math.nan
