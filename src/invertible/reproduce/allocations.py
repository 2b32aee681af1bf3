"""What a training step allocates: held between its passes, and at the peak, from the allocator's own account."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

BACKWARD = "## backward"


@dataclass(frozen=True)
class LiveBytes:
    """Bytes above what was allocated before a step.

    Attributes:
        held: between the forward and the backward pass.
        forward_peak: in the forward pass.
        backward_peak: in the backward pass.
        left: after it.
    """

    held: int
    forward_peak: int
    backward_peak: int
    left: int


def held_and_peak(forward: Callable[[], Tensor], device: str) -> tuple[int, int]:
    """Bytes above what was allocated before, of a forward pass to a loss and its backward pass.

    On a CPU every allocation is followed, on a GPU the allocator's statistics are read. Gradients should have been
    allocated before.

    Args:
        forward: makes the loss.
        device: on which it is.

    Returns:
        Bytes held between the two passes, and at the peak of both.
    """
    if torch.device(device).type == "cuda":
        gc.collect()
        return _of_statistics(forward)
    found = live_bytes(forward, lambda loss: loss.backward())
    return found.held, max(found.forward_peak, found.backward_peak)


def live_bytes(forward: Callable[[], Any], backward: Callable[[Any], object]) -> LiveBytes:
    """Run `backward(forward())` on a CPU and follow every allocation of the profiler's record.

    To count the tensors that autograd saves would miss what a strategy keeps elsewhere. Gradients should have been
    allocated before.
    """
    gc.collect()
    with quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        out = forward()
        gc.collect()
        with record_function(BACKWARD):
            backward(out)
    events = record.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    turn = next(event.start_ns() for event in events if event.name() == BACKWARD)
    memory = (event for event in events if event.name() == "[memory]")
    changes = sorted((event.start_ns(), event.nbytes()) for event in memory)  # pyright: ignore[reportAttributeAccessIssue]
    held, forward_peak = _followed(0, [size for start, size in changes if start < turn])
    left, backward_peak = _followed(held, [size for start, size in changes if start >= turn])
    return LiveBytes(held, forward_peak, backward_peak, left)


def _of_statistics(forward: Callable[[], Tensor]) -> tuple[int, int]:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = forward()
    held = torch.cuda.memory_allocated() - before
    loss.backward()
    return held, torch.cuda.max_memory_allocated() - before


def _followed(start: int, changes: Sequence[int]) -> tuple[int, int]:
    """The last level, and the highest."""
    level = peak = start
    for change in changes:
        level += change
        peak = max(peak, level)
    return level, peak


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing on stderr: the profiler writes a line at each start and stop, from C++."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
