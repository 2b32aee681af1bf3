"""Denoising: the image itself is observed."""

from __future__ import annotations

from torch import Tensor

from invertible.physics.operator import LinearOperator
from invertible.shapes import check_input


class Denoising(LinearOperator):
    """The identity: A x = A^H x = x, of images (B, c, *spatial)."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` itself."""
        check_input("Denoising", x, None, None)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """`y` itself."""
        check_input("Denoising", y, None, None)
        return y

    def normal(self, x: Tensor) -> Tensor:
        """`x` itself."""
        return self(x)
