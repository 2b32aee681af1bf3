"""The proof of a step in its first pass: rebuilt at once, while all it should give is at hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invertible.errors import InvertibleError
from invertible.memory.ledger import Ledger, ReplayError, Saved
from invertible.memory.log import Quarantined
from invertible.memory.step import State, Step, relative_distance
from invertible.memory.tape import INPUT_KEPT, OTHER_VALUES, STORED, Tape

# What autograd saved in a step and in its replay may differ by this much more than the input may.
SLACK = 100.0


def proved(tape: Tape, index: int, state: State, result: State, allowed: float) -> Quarantined | None:
    """Rebuild a step from its output, and compare with what went in and with what autograd saved.

    A step without an inverse is run again from its input.

    Args:
        tape: of the pass; the step's ledger still holds what its first run saved.
        index: of the step.
        state: its input.
        result: its output.
        allowed: tolerance of the rebuilt input, relative.

    Returns:
        `None` if all agrees; else how the step is to be treated: its input kept, if it can be run again from it, or
        its activations stored.
    """
    step, ledger, step_number = tape.steps[index], tape.ledgers[index], tape.log.passes
    name, error = step.name, math.inf
    try:
        if step.invertible:
            source, saved = tape.rebuild(index, result)
            error = relative_distance(source, state)
            if error <= allowed and _agree(step, ledger, saved, allowed):
                return None
    except ReplayError:
        raise
    except InvertibleError:
        pass
    again, saved = tape.rerun(index, state)
    if relative_distance(again, result) <= allowed and _agree(step, ledger, saved, allowed):
        if not step.invertible:
            return None
        return Quarantined(name, INPUT_KEPT, error, step_number, "its inverse does not return its input")
    return Quarantined(name, STORED, error, step_number, OTHER_VALUES)


def _agree(step: Step, ledger: Ledger, saved: Saved, allowed: float) -> bool:
    """Whether a replay saved what the first run saved."""
    if not ledger.fits(saved):
        return False
    # Batch normalisation saves its running statistics, which its gradient does not use and every run changes.
    buffers = {x.untyped_storage().data_ptr() for module in step.modules for x in module.buffers()}
    return all(
        _alike(first, saved.slots[number], SLACK * allowed)
        for number, first in ledger.slots.items()
        if first.untyped_storage().data_ptr() not in buffers
    )


def _alike(a: Tensor, b: Tensor, allowed: float) -> bool:
    if not a.is_floating_point():
        # A mask may flip where its number is on the edge; another mask differs in many places.
        return a.numel() == 0 or float((a != b).double().mean()) <= max(0.01, 1.0 / a.numel())
    difference, size = torch.linalg.vector_norm(a - b), torch.linalg.vector_norm(a)
    if not difference.isfinite() or not size.isfinite():
        same = (a == b) | (a.isnan() & b.isnan())
        difference = torch.linalg.vector_norm((a.double() - b.double()).masked_fill(same, 0.0))
        size = torch.linalg.vector_norm(a.double().nan_to_num(0.0, 0.0, 0.0))
    return bool(difference <= allowed * size + torch.finfo(a.dtype).tiny)
