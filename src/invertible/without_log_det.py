"""Calls that throw the log-determinant away say so, that blocks whose log-determinant costs need not compute it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_WANTED = ContextVar("log_det_wanted", default=True)


@contextmanager
def without_log_det() -> Iterator[None]:
    """Within it a block may answer zeros for its log_det; x and y are what they are outside, up to rounding.

    For the calling thread and the task alone. Serves as a decorator too.

    Example:
        >>> with without_log_det():
        ...     x, _ = block.inverse(y)
    """
    before = _WANTED.set(False)
    try:
        yield
    finally:
        _WANTED.reset(before)


def log_det_wanted() -> bool:
    """Whether the log_det that a block returns will be looked at."""
    # A compiled graph would keep the answer of its first call.
    return torch.compiler.is_compiling() or _WANTED.get()
