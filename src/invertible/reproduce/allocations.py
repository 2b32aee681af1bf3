"""What a training step allocates: held between its passes, and at the peak, from the allocator's own account."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

BACKWARD = "## backward"


def held_and_peak(forward: Callable[[], Tensor], device: str) -> tuple[int, int]:
    """Bytes above what was allocated before, of a forward pass to a loss and its backward pass.

    On a CPU every allocation of the profiler's record is followed, on a GPU the allocator's statistics are read. To
    count the tensors that autograd saves would miss what a strategy keeps elsewhere. Gradients should have been
    allocated before.

    Args:
        forward: makes the loss.
        device: on which it is.

    Returns:
        Bytes held between the two passes, and at the peak of both.
    """
    gc.collect()
    if torch.device(device).type == "cuda":
        return _of_statistics(forward)
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        loss = forward()
        gc.collect()
        with record_function(BACKWARD):
            loss.backward()
    events = record.profiler.kineto_results.events()  # pyright: ignore[reportOptionalMemberAccess]
    turn = next(event.start_ns() for event in events if event.name() == BACKWARD)
    memory = (event for event in events if event.name() == "[memory]")
    changes = sorted((event.start_ns(), event.nbytes()) for event in memory)  # pyright: ignore[reportAttributeAccessIssue]
    held, first = _followed(0, [size for start, size in changes if start < turn])
    return held, max(first, _followed(held, [size for start, size in changes if start >= turn])[1])


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
def _quiet() -> Iterator[None]:
    """Nothing on stderr: the profiler writes a line at each start and stop, from C++."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
