"""What a training step allocates: held between its passes, and at the peak of each, from the allocator's own events.

Counting the tensors that autograd saves would be blind to what a competitor hides on a context or on its modules.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from _timing import quiet
from torch.profiler import ProfilerActivity, profile, record_function

_BACKWARD = "## backward"


@dataclass(frozen=True)
class LiveBytes:
    """Bytes above what was allocated before the step.

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


def held_and_peak(forward: Callable[[], torch.Tensor], *, cuda: bool) -> tuple[int, int]:
    """Bytes held between the passes of a loss, and at the peak, of the device that it is on."""
    if not cuda:
        found = live_bytes(forward, lambda loss: loss.backward())
        return found.held, max(found.forward_peak, found.backward_peak)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss = forward()
    held = torch.cuda.memory_allocated() - before
    loss.backward()
    return held, torch.cuda.max_memory_allocated() - before


def live_bytes(forward: Callable[[], object], backward: Callable[[object], object]) -> LiveBytes:
    """Run `backward(forward())` and follow every allocation; gradients should have been allocated before."""
    gc.collect()
    with quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        out = forward()
        gc.collect()
        with record_function(_BACKWARD):
            backward(out)
    events = record.profiler.kineto_results.events()
    turn = next(event.start_ns() for event in events if event.name() == _BACKWARD)
    memory = sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns())
    held, forward_peak = _follow(0, [event.nbytes() for event in memory if event.start_ns() < turn])
    left, backward_peak = _follow(held, [event.nbytes() for event in memory if event.start_ns() >= turn])
    return LiveBytes(held, forward_peak, backward_peak, left)


def _follow(start: int, changes: list[int]) -> tuple[int, int]:
    """The last level, and the highest."""
    level = peak = start
    for change in changes:
        level += change
        peak = max(peak, level)
    return level, peak
