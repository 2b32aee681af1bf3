"""Runs of consecutive blocks that are cheaper together than one by one.

Two kinds: blocks that cut their input alike hand the two parts to each other, and blocks that are affine in the
channels, with the same matrix at every position, become one matrix. A chain evaluates its blocks run by run; a block
with hooks stays alone, for hooks see whole tensors.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.bijection import Bijection, ChannelAffine
from invertible.errors import ShapeError
from invertible.memory.step import InSeries, State, Step
from invertible.shapes import (
    HALF_PRECISION,
    check_placement,
    full_precision,
    log_det_dtype,
    per_sample_sum,
    zero_log_det,
)
from invertible.steps import BlockStep, between_cuts

Run = list[Bijection]


def runs(blocks: Iterable[Bijection]) -> list[Run]:
    """Group consecutive blocks that run together; all others stand alone."""
    # A plain loop: torch.compile does not trace itertools.groupby.
    found: list[Run] = []
    previous: object = None
    for index, block in enumerate(blocks):
        key = _kind(index, block)
        if found and key == previous:
            found[-1].append(block)
        else:
            found.append([block])
        previous = key
    return found


def _kind(index: int, block: Bijection) -> object:
    if _has_hooks(block):
        return index
    if block.partition is not None:
        return block.partition.key, block.spatial_dims
    return "affine" if block.is_channel_affine else index


def run_forward(run: Run, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
    """The blocks of a run in order: (y, log_det)."""
    if len(run) == 1:
        return run[0](x, given(run[0], condition))
    if run[0].partition is not None:
        return _parts_forward(run, x, condition)
    if x.dtype not in HALF_PRECISION:
        _check_all(run, x)
        with full_precision(x):
            return _apply(x, [block.channel_affine() for block in run])
    total = zero_log_det(x)
    for block in run:
        x, log_det = block(x, given(block, condition))
        total = total + log_det
    return x, total


def run_inverse(run: Run, y: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
    """The inverses of a run's blocks, which stand in the order of the inverse: (x, log_det)."""
    if len(run) == 1:
        return run[0].inverse(y, given(run[0], condition))
    if run[0].partition is not None:
        return _parts_inverse(run, y, condition)
    if y.dtype not in HALF_PRECISION:
        _check_all(run, y)
        with full_precision(y):
            return _apply(y, [block.inverse_channel_affine() for block in run])
    total = zero_log_det(y)
    for block in run:
        y, log_det = block.inverse(y, given(block, condition))
        total = total + log_det
    return y, total


def steps_of(run: Run) -> list[Step]:
    """The steps of a run, on whole tensors."""
    first = run[0]
    if _has_hooks(first):
        return [BlockStep(first, one_pass=type(first).reconstruct is not Bijection.reconstruct)]
    if first.partition is not None:
        return between_cuts(first.partition, [step for block in run for step in block.steps()])
    return [AffineRunStep(run)] if len(run) > 1 else first.steps()


class AffineRunStep(Step):
    """A run of blocks that are affine in the channels, as one matrix."""

    def __init__(self, run: Run) -> None:
        self.blocks, self.modules = run, tuple(run)
        self.name = " and ".join(type(block).__name__ for block in run)

    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        """The map of the run."""
        y, log_det = run_forward(self.blocks, state[0], condition)
        return (y,), log_det

    def invert(self, state: State, condition: Tensor | None) -> State:
        """Its inverse."""
        return (run_inverse(self.blocks[::-1], state[0], condition)[0],)

    @property
    def inverted(self) -> Step:
        """The run of the inverses."""
        return _InverseAffineRunStep(self.blocks)

    def exact(self, bits: int) -> Step:
        """The blocks' own exact forms in series, for the product of their matrices has none."""
        return InSeries([step.exact(bits) for block in self.blocks for step in block.steps()])


class _InverseAffineRunStep(AffineRunStep):
    def run(self, state: State, condition: Tensor | None) -> tuple[State, Tensor | None]:
        x, log_det = run_inverse(self.blocks[::-1], state[0], condition)
        return (x,), log_det

    def invert(self, state: State, condition: Tensor | None) -> State:
        return (run_forward(self.blocks, state[0], condition)[0],)

    @property
    def inverted(self) -> Step:
        return AffineRunStep(self.blocks)

    def exact(self, bits: int) -> Step:
        return super().exact(bits).inverted


def given(block: Bijection, condition: Tensor | None) -> Tensor | None:
    """The condition, if the block takes one."""
    return condition if block.condition_features else None


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _parts_forward(run: Run, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
    cut = run[0].partition
    assert cut is not None
    _check_parts(run, x, condition)
    parts, total = cut.split(x), None
    for block in run:
        parts, log_slope = block.forward_parts(parts, given(block, condition))
        total = _add(total, log_slope)
    return cut.merge(*parts), zero_log_det(x) if total is None else per_sample_sum(total)


def _parts_inverse(run: Run, y: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
    cut = run[0].partition
    assert cut is not None
    _check_parts(run, y, condition)
    parts, total = cut.split(y), None
    for block in run:
        parts, log_slope = block.inverse_parts(parts, given(block, condition))
        total = _add(total, log_slope)
    return cut.merge(*parts), zero_log_det(y) if total is None else per_sample_sum(total)


def _check_parts(run: Run, x: Tensor, condition: Tensor | None) -> None:
    # One partition and one number of axes: the first block speaks for the others, but not on conditions.
    first = run[0]
    first._check(x, given(first, condition), first.partition.features if first.partition else None, first.spatial_dims)
    for block in run[1:]:
        if block.condition_features != first.condition_features:
            block._check(x, given(block, condition))


def _add(total: Tensor | None, log_slope: Tensor | None) -> Tensor | None:
    """Add up tensors of which only the sum per sample counts; in float32 at least, as log_det is."""
    if log_slope is None:
        return total
    if log_slope.dtype in HALF_PRECISION:
        log_slope = log_slope.float()
    if total is None:
        return log_slope
    if total.shape == log_slope.shape:
        return total + log_slope
    return (per_sample_sum(total) + per_sample_sum(log_slope)).unsqueeze(1)


def _check_all(run: Run, x: Tensor) -> None:
    for block in run:
        block._check(x, None, None, block.spatial_dims)


def _apply(x: Tensor, maps: list[ChannelAffine]) -> tuple[Tensor, Tensor]:
    """All maps as one: their matrices are C x C and cost nothing beside x."""
    weight, bias, log_abs_det = maps[0]
    check_placement("Chain", x, weight)
    for following in maps[1:]:
        if following.bias.shape != bias.shape:
            raise ShapeError(
                f"Chain: expected neighbouring blocks of one number of channels, got {len(bias)} and "
                f"{len(following.bias)}. A size of 1 is not broadcast; build them for as many."
            )
        if following.weight.dim() == 1:
            weight = following.weight * weight if weight.dim() == 1 else following.weight[:, None] * weight
            bias = torch.addcmul(following.bias, following.weight, bias)
        else:
            bias = torch.addmv(following.bias, following.weight, bias)
            weight = following.weight * weight if weight.dim() == 1 else following.weight @ weight
        log_abs_det = log_abs_det + following.log_abs_det
    positions = math.prod(x.shape[2:])
    log_det = (log_abs_det.to(log_det_dtype(x.dtype)) * positions).expand(len(x))
    return channel_affine(x, weight, bias), log_det


def channel_affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W x + b at every position; W is (C, C), or (C,) for a diagonal."""
    if x.shape[1] != weight.shape[-1]:
        raise ShapeError(
            f"Chain: expected x of shape (batch, {weight.shape[-1]}, ...), got {tuple(x.shape)}. "
            "Axis 1 holds channels; a size of 1 is not broadcast."
        )
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    if weight.dim() == 1:
        axes = (-1, *(1,) * (x.dim() - 2))
        return torch.addcmul(bias.view(axes), x, weight.view(axes))
    if x.dim() == 2:
        return functional.linear(x, weight, bias)
    if x.dim() == 4:
        return functional.conv2d(x, weight[..., None, None], bias)
    return functional.conv1d(x.flatten(2), weight[..., None], bias).unflatten(2, x.shape[2:])
