"""What a coupling asks of its elementwise map."""

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
        """Bounds of the whole coupling.

        Args:
            lipschitz: bound of the conditioner's Lipschitz constant.
            offset: largest number, and for a `Ball` largest length, of its output on the box of inputs (x) and on that
                of outputs (y).
            domain: the boxes; the whole space if `None`.
        """
        ...

    def image(self, offset: Domain, domain: Domain) -> Domain:
        """Where the transformed part can go; in lengths, where known, the whole of x or y."""
        ...
