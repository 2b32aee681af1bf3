"""What a field sees beside its arguments, autocast and random numbers, and its return when it is evaluated again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

Random = dict[torch.device, Tensor]


class Autocast:
    """The state of autocast, to be entered again in the backward pass.

    Its cache is off: weights cast without grad would be found there by whoever needs their gradients.

    Args:
        state: tensors whose devices matter.
    """

    def __init__(self, state: Sequence[Tensor]) -> None:
        self.kinds = sorted({"cpu", *(x.device.type for x in state)} - {"meta"})
        self.settings = [(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in self.kinds]

    @contextmanager
    def again(self) -> Iterator[None]:
        """As it was."""
        with ExitStack() as stack:
            for kind, dtype, enabled in self.settings:
                if enabled or torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, dtype, enabled, cache_enabled=False))
            yield


class Noise:
    """Random numbers of a field that draws some: those of evaluation k start from a seed of their own.

    So the way back sees the numbers of the way there, at no memory. A field that draws none costs two comparisons of
    the generators' states a solution.

    Args:
        state: tensors whose devices matter.

    Attributes:
        seed: of evaluation 0; `None` for a field that draws nothing.
    """

    def __init__(self, state: Sequence[Tensor]) -> None:
        self.devices = sorted({torch.device("cpu"), *(x.device for x in state if x.device.type != "meta")}, key=str)
        self.seed: int | None = None
        self._before = self._states()

    @property
    def drawn(self) -> bool:
        """Whether a generator has advanced since."""
        return any(not torch.equal(before, now) for before, now in zip(self._before, self._states(), strict=True))

    def take_seed(self) -> None:
        """Begin again, with seeds that follow from the default generator."""
        self._restore(self._before)
        self.seed = int(torch.randint(2**62, ()))

    @contextmanager
    def of(self, evaluation: int) -> Iterator[None]:
        """The random numbers of one evaluation."""
        if self.seed is None:
            yield
            return
        outside = self._states()
        for device in self.devices:
            _generator(device).manual_seed((self.seed + evaluation) % 2**63)
        try:
            yield
        finally:
            self._restore(outside)

    def _states(self) -> list[Tensor]:
        return [_generator(device).get_state() for device in self.devices]

    def _restore(self, states: list[Tensor]) -> None:
        for device, state in zip(self.devices, states, strict=True):
            _generator(device).set_state(state)


def _generator(device: torch.device) -> Any:  # noqa: ANN401
    if device.type == "cpu":
        return torch.default_generator
    module = torch.get_device_module(device.type)
    index = module.current_device() if device.index is None else device.index
    return module.default_generators[index]
