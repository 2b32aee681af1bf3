"""What was computed from a weight, kept while the weight is the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack  # pyright: ignore[reportMissingImports]
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

# Different image sizes and precisions for which something is kept.
LARGEST = 8


class WeightCache:
    """Values computed from a tensor, forgotten as soon as the tensor holds other numbers.

    The numbers themselves are compared, with a copy: torch's version counter tells neither of edits through `.data` nor
    of the fused optimizers, and an address may be used again. The comparison waits for the device, as an iterative
    solver's own stopping rule does. Copies and pickles of a cache are empty.
    """

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._values: dict[Hashable, Any] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._weight, self._values = None, {}

    def get(self, weight: Tensor, key: Hashable, compute: Callable[[], Any]) -> Any:  # noqa: ANN401
        """The value for a key, computed if the weight has changed or the key is new.

        Args:
            weight: what the value depends on.
            key: what else it depends on.
            compute: makes the value, without gradients.
        """
        if peek_interpreter_stack() is not None:
            # Results would belong to the transformation of torch.func; what is kept belongs to none.
            with temporarily_clear_interpreter_stack():
                return self._get(weight.detach(), key, compute)
        return self._get(weight.detach(), key, compute)

    def _get(self, weight: Tensor, key: Hashable, compute: Callable[[], Any]) -> Any:  # noqa: ANN401
        if self._holds(weight) and key in self._values:
            return self._values[key]
        with torch.inference_mode(False), torch.no_grad():
            if not self._holds(weight):
                self._weight, self._values = weight.clone(), {}
            if len(self._values) >= LARGEST:
                self._values.clear()
            self._values[key] = compute()
            return self._values[key]

    def _holds(self, weight: Tensor) -> bool:
        kept = self._weight
        if kept is None or kept.dtype != weight.dtype or kept.device != weight.device or kept.shape != weight.shape:
            return False
        return torch.equal(kept, weight)

    def __deepcopy__(self, memo: dict[int, Any]) -> WeightCache:
        return WeightCache()

    def __reduce__(self) -> tuple[type[WeightCache], tuple[()]]:
        return WeightCache, ()
