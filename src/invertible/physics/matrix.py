"""Any linear map of small images, as its matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from invertible.errors import ConfigError, ShapeError
from invertible.physics.fourier import as_complex, as_real
from invertible.physics.operator import LinearOperator
from invertible.shapes import check_input

OWNER = "MatrixOperator"


class MatrixOperator(LinearOperator):
    """y = M x of flattened images, such as compressed sensing with random rows.

    Args:
        matrix: M, (m, n), or (B, m, n) for one a sample; real or complex. A complex one acts on complex images, whose
            real and imaginary parts are neighbouring channels.
        shape: (c, *spatial) of x, n numbers, or n pairs for a complex matrix; by default a vector, (n,) or (2 n,).

    Raises:
        ConfigError: if the matrix is not finite or not a matrix, or does not fit the shape.
        ShapeError: if x or y does not fit.

    Example:
        >>> operator = MatrixOperator(torch.randn(100, 784) / 28, (1, 28, 28))
        >>> y = operator(torch.rand(8, 1, 28, 28))     # (8, 100)
    """

    entries: Tensor

    def __init__(self, matrix: Tensor, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.is_complex = matrix.is_complex()
        if matrix.dim() not in (2, 3) or not (self.is_complex or matrix.is_floating_point()):
            raise ConfigError(
                f"{OWNER}: expected matrix of shape (m, n) or (batch, m, n), got {tuple(matrix.shape)} of "
                f"{matrix.dtype}."
            )
        if not matrix.isfinite().all():
            raise ConfigError(f"{OWNER}: expected matrix of finite numbers, got NaN or infinity.")
        size = matrix.shape[-1] * (2 if self.is_complex else 1)
        self.shape = (size,) if shape is None else tuple(shape)
        if math.prod(self.shape) != size or (self.is_complex and self.shape[0] % 2):
            raise ConfigError(
                f"{OWNER}: expected shape of {size} numbers, those of the matrix's columns, with an even number of "
                f"channels if it is complex, got {self.shape}."
            )
        # A module's .to(dtype) would drop imaginary parts.
        self.register_buffer("entries", (torch.view_as_real(matrix) if self.is_complex else matrix).clone())

    @property
    def matrix(self) -> Tensor:
        """M, as it was given."""
        return torch.view_as_complex(self.entries) if self.is_complex else self.entries

    def forward(self, x: Tensor) -> Tensor:
        """M x: (B, c, *spatial) to (B, m)."""
        check_input(OWNER, x, None, None, self.entries)
        if tuple(x.shape[1:]) != self.shape:
            raise ShapeError(f"{OWNER}: expected x of shape (batch, {str(self.shape)[1:-1]}), got {tuple(x.shape)}.")
        vectors = (as_complex(x) if self.is_complex else x).flatten(1)
        return self._product(self.matrix, vectors)

    def adjoint(self, y: Tensor) -> Tensor:
        """M^H y: (B, m) to (B, c, *spatial)."""
        rows = self.matrix.shape[-2]
        if y.dim() != 2 or y.shape[1] != rows or y.is_complex() != self.is_complex:
            kind = "complex" if self.is_complex else "real"
            raise ShapeError(
                f"{OWNER}: expected data of shape (batch, {rows}), {kind}, got {tuple(y.shape)} of {y.dtype}."
            )
        vectors = self._product(self.matrix.mH, y)
        if not self.is_complex:
            return vectors.unflatten(1, self.shape)
        return as_real(vectors.unflatten(1, (self.shape[0] // 2, *self.shape[1:])))

    def _product(self, matrix: Tensor, vectors: Tensor) -> Tensor:
        if matrix.dim() == 3 and len(matrix) != len(vectors):
            raise ShapeError(f"{OWNER}: expected a batch of {len(matrix)}, one a matrix, got {len(vectors)}.")
        matrix = matrix.to(vectors.dtype)
        return vectors @ matrix.mT if matrix.dim() == 2 else (matrix @ vectors[..., None])[..., 0]
