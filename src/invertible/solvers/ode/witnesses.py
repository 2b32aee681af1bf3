"""What a solver leaves on its way, at constant memory, to tell on the way back whether it is still the same."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from invertible.solvers.ode.shear import Pair

# Places at which something is left, however many steps there are.
PLACES = 8
# One product with random signs is normal with the error's norm for deviation: so many of them pass.
DEVIATIONS = 4


class Witnesses:
    """Products of the pair with random signs, (B,) each, at a few places between beginning and end.

    At the beginning the state itself is known. Between, an error may have grown and shrunk again: for a field that
    expands first and contracts then, walking back expands first.

    Args:
        steps: number of steps.
        tolerance: largest error of a sample, relative to the largest norm that it had at the places.
    """

    def __init__(self, steps: int, tolerance: float) -> None:
        self.tolerance = tolerance
        self.places = frozenset(round(steps * k / (PLACES + 1)) for k in range(PLACES + 1)) | {steps}
        self._left: dict[int, list[Tensor]] = {}
        self._sizes: list[Tensor] = []

    def leave(self, place: int, pair: Pair) -> None:
        """Leave witnesses of a pair, if it is at one of the places."""
        if place in self.places:
            tensors = (*pair.first, *pair.second)
            self._left[place] = [_product(x) for x in tensors]
            norms = [_norms(x) for x in tensors]
            before = self._sizes or norms
            self._sizes = [torch.maximum(old, new) for old, new in zip(before, norms, strict=True)]

    def error(self, place: int, pair: Pair) -> tuple[float, int] | None:
        """The relative error of a pair and its sample, where it has surely missed the tolerance."""
        if place not in self._left:
            return None
        found = [_product(x) for x in (*pair.first, *pair.second)]
        gaps = [(a - b).abs() / DEVIATIONS for a, b in zip(found, self._left[place], strict=True)]
        return self._missed(gaps)

    def distance(self, pair: Pair, reference: Pair) -> tuple[float, int] | None:
        """The same against a pair that is known."""
        tensors = zip((*pair.first, *pair.second), (*reference.first, *reference.second), strict=True)
        return self._missed([_norms(a - b) for a, b in tensors])

    def _missed(self, gaps: list[Tensor]) -> tuple[float, int] | None:
        tiny = torch.finfo(torch.float32).tiny
        ratios = torch.stack([gap / size.clamp_min(tiny) for gap, size in zip(gaps, self._sizes, strict=True)])
        worst = ratios.nan_to_num(nan=torch.inf).amax(0)
        if not len(worst) or bool((worst <= self.tolerance).all()):
            return None
        return float(worst.max()), int(worst.argmax())


def _rows(x: Tensor) -> Tensor:
    return x.detach().reshape(len(x), x.shape[1:].numel())


def _norms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(_rows(x), dim=1)


def _product(x: Tensor) -> Tensor:
    rows = _rows(x)
    return rows @ _signs(rows.shape[1], x.dtype, x.device)


@lru_cache(maxsize=32)
def _signs(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(count)
    return (2 * torch.randint(2, (count,), generator=generator, device="cpu") - 1).to(device, dtype)
