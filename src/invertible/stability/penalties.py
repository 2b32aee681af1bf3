"""What the penalties on a bijection share: when they are due, and the count of what they could not take."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection
from invertible.errors import ConfigError, ShapeError
from invertible.shapes import finite_rows
from invertible.stability.batches import rows_of
from invertible.stability.passage import LOST, Direction, send


@runtime_checkable
class Penalty(Protocol):
    """A term to add to a loss, so that a map keeps an inverse that can be computed.

    Attributes:
        every: it is due at steps 0, every, 2 every, ...; at the others it is 0 and costs nothing.
        skipped: number of samples left out so far since something about them was not finite.
    """

    every: int

    @property
    def skipped(self) -> int:
        """Number of samples left out so far."""
        ...

    def of(
        self,
        bijection: Bijection,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        step: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The term for a batch, a scalar with a graph."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        ...


class Count:
    """Calls of a penalty, and the samples that it left out.

    The first time that samples are left out there is one warning; after it the number tells.

    Args:
        owner: the penalty's name, for messages.
        weight: its factor, which must be positive and finite.
        every: steps between two times that it is due, at least 1.

    Attributes:
        calls: how often the penalty was called, due or not.
        skipped: samples left out.

    Raises:
        ConfigError: naming the argument that is out of its range.
    """

    def __init__(self, owner: str, weight: float, every: int) -> None:
        if isinstance(weight, bool) or not 0 < weight < math.inf:
            raise ConfigError(f"{owner}: expected a weight > 0, got {weight!r}. Leave the penalty out for none.")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ConfigError(f"{owner}: expected every to be an integer of at least 1, got {every!r}.")
        self.owner, self.every = owner, every
        self.calls = self.skipped = 0
        self._warned = False

    def next(self, step: int | None) -> tuple[int, bool]:
        """The number of this call, `step` if that is given, and whether the penalty is due at it."""
        index = self.calls if step is None else step
        self.calls += 1
        return index, index % self.every == 0

    def skip(self, count: int, samples: int, reason: str) -> None:
        """Count samples that were left out, and warn if they are the first ones."""
        self.skipped += count
        if count and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.owner}: {count} of {samples} samples left out: {reason}. The others count; further ones are "
                f"counted in `skipped` without a warning.",
                stacklevel=4,
            )

    def state_dict(self) -> dict[str, Any]:
        """Both numbers."""
        return {"calls": self.calls, "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both numbers."""
        self.calls, self.skipped = int(state_dict["calls"]), int(state_dict["skipped"])


def passed(direction: Direction, x: Tensor, condition: Tensor | None) -> tuple[tuple[Tensor, Tensor], Tensor, str]:
    """Send a batch through a map with a graph: the pairs of the samples that come through, their rows, why not all.

    Rows that come to nothing are sought without a graph, and the others sent again alone: an infinity in the graph
    would turn the zero gradient that it is given into NaN in every parameter.
    """
    try:
        pair = direction(x, condition)
        if bool(pair[0].detach().isfinite().all()):
            return pair, torch.arange(len(x), device=x.device), ""
    except (ShapeError, ConfigError):
        raise
    except LOST:
        pass
    with torch.no_grad():
        passage = send(direction, x.detach(), condition)
    rows = finite_rows(passage.output).nonzero().flatten().to(x.device)
    raised = next((str(error) for error in passage.errors if error is not None), "")
    reason = raised.rstrip(".") or "the map or its inverse is not finite there"
    if not len(rows):
        return (x[:0], x.new_zeros(0)), rows, reason
    return direction(x[rows], rows_of(condition, rows)), rows, reason


@contextmanager
def as_in_inference(module: nn.Module) -> Iterator[None]:
    """The module in eval mode, with grad as it is; every module's own mode afterwards."""
    training = [each for each in module.modules() if each.training]
    for each in training:
        each.training = False
    try:
        yield
    finally:
        for each in training:
            each.training = True
