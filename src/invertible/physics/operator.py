"""What an inverse problem consists of: a linear operator with its adjoint, and what was observed through it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from invertible.errors import ShapeError


class LinearOperator(nn.Module):
    """A linear map A of images, with its exact adjoint: Re<A x, y> = <x, A^H y>.

    Images are real tensors (B, c, *spatial); complex images have their real and imaginary parts as neighbouring
    channels. Data may be real or complex, of any shape (B, ...). An operator may hold a tensor for every sample, such
    as a mask.
    """

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        raise TypeError(f"{type(self).__name__}: define forward(self, x).")

    def adjoint(self, y: Tensor) -> Tensor:
        """A^H y, real, of x's shape."""
        raise TypeError(f"{type(self).__name__}: define adjoint(self, y).")

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x; operators override it where that is cheaper in one go."""
        return self.adjoint(self(x))

    def measured(self, y: Tensor) -> Tensor:
        """y with zeros where A measures nothing; operators that mask override it."""
        return y


@dataclass(frozen=True, eq=False)
class Observation:
    """A batch of observations y = A x + noise.

    Attributes:
        operator: A, whose tensors are for this batch.
        data: y, (B, ...).
        context: what is known beside, such as a one-hot code of the scanner, (B, k); `None` for nothing.

    Raises:
        ShapeError: if `context` is not of shape (B, k).
    """

    operator: LinearOperator
    data: Tensor
    context: Tensor | None = None

    def __post_init__(self) -> None:
        if self.context is not None and (self.context.dim() != 2 or len(self.context) != len(self.data)):
            raise ShapeError(
                f"Observation: expected context of shape ({len(self.data)}, k), got {tuple(self.context.shape)}. It "
                "has one row a sample."
            )

    def backprojection(self) -> Tensor:
        """A^H y, (B, c, *spatial): for MRI the zero-filled image."""
        return self.operator.adjoint(self.data)

    def gradient(self, x: Tensor) -> Tensor:
        """A^H (A x - y), the gradient of |A x - y|^2 / 2."""
        return self.operator.normal(x) - self.backprojection()

    def scaled(self, factors: Tensor) -> Observation:
        """The observation of factor x for every sample: (B,)."""
        shape = (-1, *(1,) * (self.data.dim() - 1))
        return replace(self, data=self.data * factors.reshape(shape).to(self.data.real.dtype))

    def to(self, device: torch.device | str) -> Observation:
        """The same on a device; this one and its operator stay where they are."""
        context = None if self.context is None else self.context.to(device)
        return Observation(deepcopy(self.operator).to(device), self.data.to(device), context)
