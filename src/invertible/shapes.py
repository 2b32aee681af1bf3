"""Checks of tensors at the entry of a block, and per-sample sums.

A check that passes costs about a microsecond; everything that builds a message runs only when it fails.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from invertible.errors import ShapeError

HALF_PRECISION = (torch.float16, torch.bfloat16)
AXES = {0: "", 1: ", length", 2: ", height, width", 3: ", depth, height, width"}


def check_input(
    owner: str, x: Tensor, channels: int | None, spatial_dims: int | None, reference: Tensor | None = None
) -> None:
    """Check that x is a floating-point tensor of shape (batch, channels, ...) on the reference's device.

    Args:
        owner: name of the block, the first word of the message.
        x: the tensor to check.
        channels: size of axis 1; any if `None`.
        spatial_dims: number of axes after axis 1; any if `None`.
        reference: a parameter or buffer of the block, whose device x must share.

    Raises:
        ShapeError: naming what was expected and what came.
    """
    shape = x.shape
    if (
        len(shape) < 2
        or (spatial_dims is not None and len(shape) != 2 + spatial_dims)
        or (channels is not None and shape[1] != channels)
    ):
        raise ShapeError(_shape_message(owner, x, channels, spatial_dims))
    if not x.is_floating_point():
        raise ShapeError(
            f"{owner}: expected x of a floating-point dtype, got {x.dtype}. Convert it first: x.float(), "
            "or invertible.Dequantize for discrete values."
        )
    if reference is not None and reference.device != x.device:
        check_placement(owner, x, reference)


def check_placement(owner: str, x: Tensor, reference: Tensor | None) -> None:
    """Check that x is of the device and the dtype of a parameter.

    Raises:
        ShapeError: if it is of another; a dtype may differ under autocast.
    """
    if reference is None:
        return
    if reference.device != x.device:
        raise ShapeError(
            f"{owner}: expected x on {reference.device}, where the block is, got x on {x.device}. "
            f"Move one of them: x.to({str(reference.device)!r})."
        )
    if reference.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise ShapeError(
            f"{owner}: expected x of {reference.dtype}, the block's dtype, got {x.dtype}. "
            f"Convert one of them: x.to({reference.dtype})."
        )


def check_condition(owner: str, condition: Tensor | None, x: Tensor, features: int) -> None:
    """Check the condition of a block against its batch.

    Args:
        owner: name of the block.
        condition: shape (B, features), or (B, features, *spatial) with spatial sizes that x's sizes divide.
        x: the block's input.
        features: number of condition features; 0 for a block that takes no condition.

    Raises:
        ShapeError: if a condition is missing, superfluous, of another batch, width, spatial size, dtype or device.
    """
    if condition is None:
        if features:
            raise ShapeError(
                f"{owner}: expected a condition of shape (batch, {features}), got none. Pass condition=..., "
                "or build the block with condition_features=0."
            )
        return
    if not features:
        raise ShapeError(
            f"{owner}: takes no condition, got one of shape {tuple(condition.shape)}. Leave it out, "
            "or use a block built with condition_features."
        )
    if condition.dim() < 2 or condition.shape[:2] != (len(x), features) or not _fits(condition.shape[2:], x.shape[2:]):
        raise ShapeError(
            f"{owner}: expected condition of shape ({len(x)}, {features}) or with spatial axes behind, "
            f"multiples of {tuple(x.shape[2:])}, got {tuple(condition.shape)}. A size of 1 is not broadcast."
        )
    if not condition.is_floating_point() or condition.device != x.device:
        raise ShapeError(
            f"{owner}: expected condition of a floating-point dtype on {x.device}, got {condition.dtype} on "
            f"{condition.device}. Convert it first; integer labels are one-hot encoded by torch.nn.functional.one_hot."
        )


def _fits(condition: torch.Size, x: torch.Size) -> bool:
    if not condition:
        return True
    return len(condition) == len(x) and all(c % s == 0 for c, s in zip(condition, x, strict=True) if s)


def _shape_message(owner: str, x: Tensor, channels: int | None, spatial_dims: int | None) -> str:
    size = "channels" if channels is None else str(channels)
    axes = ", ..." if spatial_dims is None else AXES.get(spatial_dims, f", {spatial_dims} spatial axes")
    message = f"{owner}: expected x of shape (batch, {size}{axes}), got {tuple(x.shape)}."
    if x.dim() < 2:
        return f"{message} Axis 0 holds samples; add it with x[None]."
    if spatial_dims is not None and x.dim() != 2 + spatial_dims:
        word = "vectors" if spatial_dims == 0 else f"{spatial_dims} spatial axes"
        return (
            f"{message} It was built for {word} (spatial_dims={spatial_dims}); "
            f"build it with spatial_dims={x.dim() - 2}, or reshape x."
        )
    broadcast = (
        " a size of 1 is not broadcast." if x.shape[1] == 1 else " build it for that many, or check the order of axes."
    )
    return f"{message} Axis 1 holds channels;{broadcast}"


def per_sample_sum(x: Tensor) -> Tensor:
    """Sum over all axes but the first, in float32 at least: (B, ...) -> (B,)."""
    if x.dtype in HALF_PRECISION:
        x = x.float()
    return x.sum(1) if x.dim() == 2 else x.sum(tuple(range(1, x.dim())))


def zero_log_det(x: Tensor) -> Tensor:
    """The log-determinant of a volume-preserving map of x: zeros of shape (B,), in float32 at least."""
    return torch.zeros(len(x), dtype=log_det_dtype(x.dtype), device=x.device)


def log_det_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a log-determinant is kept: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 if it is of lower precision, else x itself."""
    return x.float() if x.dtype in HALF_PRECISION else x


def space_to_depth(x: Tensor, factor: int) -> Tensor:
    """`torch.nn.functional.pixel_unshuffle`, which leaves an empty batch as it is, for empty batches too."""
    if x.numel():
        return functional.pixel_unshuffle(x, factor)
    return x.reshape(len(x), x.shape[1] * factor**2, x.shape[2] // factor, x.shape[3] // factor)


def depth_to_space(x: Tensor, factor: int) -> Tensor:
    """`torch.nn.functional.pixel_shuffle`, for empty batches too."""
    if x.numel():
        return functional.pixel_shuffle(x, factor)
    return x.reshape(len(x), x.shape[1] // factor**2, x.shape[2] * factor, x.shape[3] * factor)


def to_space_major(y: Tensor, squares: int) -> Tensor:
    """Channels c f^2 + s of a squeezed image, c an original channel and s < f^2 a place in a square, as s C + c."""
    return y.unflatten(1, (y.shape[1] // squares, squares)).transpose(1, 2).flatten(1, 2)


def from_space_major(y: Tensor, squares: int) -> Tensor:
    """The inverse of `to_space_major`."""
    return y.unflatten(1, (squares, y.shape[1] // squares)).transpose(1, 2).flatten(1, 2)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context without autocast, which would round matrices so that log_det would be that of another map."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def finite_rows(x: Tensor) -> Tensor:
    """Samples without NaN and infinity: (B, ...) to boolean (B,)."""
    return x.isfinite().reshape(len(x), math.prod(x.shape[1:])).all(1)
