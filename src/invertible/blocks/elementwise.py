"""What a coupling asks of its elementwise map, and the norm that bounds couplings."""

import math
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from invertible.bijection import Domain, LipschitzBounds


@runtime_checkable
class StepMap(Protocol):
    """A bijection of single numbers, given parameters for each, as far as the step of a coupling needs one.

    Attributes:
        saves: whether autograd saves tensors for the backward of the map itself.
    """

    @property
    def saves(self) -> bool:
        """Whether autograd saves tensors for the map's backward."""
        ...

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """y and the elementwise log|dy/dx|, `None` if it is zero."""
        ...

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """x and the elementwise log|dx/dy|, `None` if it is zero."""
        ...

    def on_grid(self, bits: int) -> Any:  # noqa: ANN401
        """The `StepMap` on multiples of 2^-bits, with an exact inverse; `None` if there is none."""
        ...


@runtime_checkable
class ElementwiseMap(StepMap, Protocol):
    """A bijection of single numbers, given parameters for each.

    Attributes:
        count: parameters per number; the conditioner's output holds them as (B, count d, ...), parameter by
            parameter ("bins first" for splines): reductions over parameters then run over contiguous memory.
    """

    @property
    def count(self) -> int:
        """Parameters per number."""
        ...

    def bounds(self, lipschitz: float, offset: Domain, domain: Domain | None) -> LipschitzBounds:
        """Bounds of the whole coupling, given Lip of the conditioner and bounds of |its output| on the boxes."""
        ...

    def image(self, offset: Domain, domain: Domain) -> Domain:
        """Boxes of the transformed part."""
        ...


def shear_norm(diagonal: float, off_diagonal: float) -> float:
    """The 2-norm of [[1, 0], [b, d]], a bound of ||[[I, 0], [B, D]]|| for ||B|| <= b, ||D|| <= d."""
    if not (math.isfinite(diagonal) and math.isfinite(off_diagonal)):
        return math.inf
    trace = 1 + off_diagonal**2 + diagonal**2
    # hypot of the two differences is stable where trace^2 - 4 d^2 cancels.
    root = math.sqrt(max(0.0, (trace - 2 * diagonal) * (trace + 2 * diagonal)))
    return math.sqrt((trace + root) / 2)


def times(a: float, b: float) -> float:
    """Product of bounds: 0 times infinity is 0, for a map that does not depend on its input has no slope."""
    return 0.0 if 0.0 in (a, b) else a * b
