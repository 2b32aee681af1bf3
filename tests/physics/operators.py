"""The table of operators that the laws are checked on: a new one is one line."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from invertible.physics.adapters import as_operator
from invertible.physics.blur import Blur
from invertible.physics.composition import Composition, Stack
from invertible.physics.denoising import Denoising
from invertible.physics.inpainting import Inpainting, random_pixels
from invertible.physics.kernels import gaussian_kernel, motion_kernel
from invertible.physics.matrix import MatrixOperator
from invertible.physics.mri import CartesianMRI
from invertible.physics.operator import LinearOperator
from invertible.physics.super_resolution import AveragePooling, Downsampling


class Pair:
    """Another library's operator: objects that are no modules."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(-1) * 2

    def adjoint(self, y: Tensor) -> Tensor:
        return 2 * y.flip(-1)


class Noisy:
    """As deepinv's: `forward` adds noise, `A` does not."""

    def forward(self, x: Tensor) -> Tensor:
        return self.A(x) + torch.randn_like(x)

    def A(self, x: Tensor) -> Tensor:
        return x.roll(1, -1)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y.roll(-1, -1)


def mask(*shape: int) -> Tensor:
    return torch.rand(shape) < 0.5


def maps(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.complex64)


def kernel(*shape: int) -> Tensor:
    return torch.randn(shape)


# The operator and the shape of x; batches of 3, odd and even sizes that differ.
OPERATORS: dict[str, tuple[Callable[[], LinearOperator], tuple[int, ...]]] = {
    "mri-columns": (lambda: CartesianMRI(mask(15)), (3, 2, 12, 15)),
    "mri-float-mask": (lambda: CartesianMRI(mask(3, 1, 1, 15).double()), (3, 2, 11, 15)),
    "mri-mask-a-sample": (lambda: CartesianMRI(mask(3, 1, 1, 14)), (3, 2, 11, 14)),
    "mri-points": (lambda: CartesianMRI(mask(9, 15)), (3, 2, 9, 15)),
    "mri-points-a-sample": (lambda: CartesianMRI(mask(3, 1, 9, 15)), (3, 2, 9, 15)),
    "mri-coil-by-coil": (lambda: CartesianMRI(mask(3, 1, 1, 15)), (3, 8, 12, 15)),
    "mri-sense": (lambda: CartesianMRI(mask(3, 1, 1, 15), maps(3, 5, 12, 15)), (3, 2, 12, 15)),
    "mri-sense-points": (lambda: CartesianMRI(mask(12, 15), maps(3, 5, 12, 15)), (3, 2, 12, 15)),
    "mri-sense-shared-maps": (lambda: CartesianMRI(mask(15), maps(5, 12, 15)), (3, 2, 12, 15)),
    "mri-volume": (lambda: CartesianMRI(mask(3, 1, 1, 15)), (3, 4, 5, 12, 15)),
    "mri-volume-points": (lambda: CartesianMRI(mask(3, 1, 12, 15)), (3, 4, 5, 12, 15)),
    "mri-volume-sense": (lambda: CartesianMRI(mask(15), maps(3, 4, 5, 12, 15)), (3, 2, 5, 12, 15)),
    "mri-volume-slice-maps": (lambda: CartesianMRI(mask(15), maps(3, 4, 12, 15)), (3, 2, 5, 12, 15)),
    "denoising": (Denoising, (3, 2, 5, 7)),
    "inpainting": (lambda: Inpainting(random_pixels((5, 7), 0.5, generator=0)), (3, 2, 5, 7)),
    "inpainting-channels": (lambda: Inpainting(mask(2, 5, 7)), (3, 2, 5, 7)),
    "inpainting-a-sample": (lambda: Inpainting(mask(3, 1, 5, 7).float()), (3, 2, 5, 7)),
    "inpainting-volume": (lambda: Inpainting(mask(4, 5, 7)), (3, 2, 4, 5, 7)),
    **{
        f"blur-{padding}-{name}": (lambda k=k, p=padding: Blur(kernel(*k), p), (3, 2, *size))
        for padding in ("circular", "reflect", "replicate", "zero", "valid")
        for name, k, size in (
            ("signal", (4,), (11,)),
            ("image", (3, 4), (8, 9)),
            ("volume", (2, 3, 5), (4, 6, 7)),
        )
    },
    "blur-kernel-a-sample": (lambda: Blur(kernel(3, 1, 3, 4), spatial_dims=2), (3, 2, 8, 9)),
    "blur-kernel-a-channel": (lambda: Blur(kernel(1, 2, 3, 4), "zero", spatial_dims=2), (3, 2, 8, 9)),
    "blur-kernel-each": (lambda: Blur(kernel(3, 2, 3, 4), "reflect", spatial_dims=2), (3, 2, 8, 9)),
    "blur-gaussian": (lambda: Blur(gaussian_kernel(1.0, truncate=2)), (3, 2, 8, 9)),
    "blur-motion": (lambda: Blur(motion_kernel(5, 30), "zero"), (3, 2, 9, 8)),
    "downsampling": (lambda: Downsampling(2), (3, 2, 8, 6)),
    "downsampling-blurred": (lambda: Downsampling(3, kernel(3, 4)), (3, 2, 9, 6)),
    "downsampling-reflect": (lambda: Downsampling(2, kernel(3, 3), "reflect"), (3, 2, 8, 6)),
    "downsampling-volume": (lambda: Downsampling(2, kernel(2, 3, 3), "zero"), (3, 2, 4, 8, 6)),
    "average-pooling-signal": (lambda: AveragePooling(2), (3, 2, 8)),
    "average-pooling": (lambda: AveragePooling(3), (3, 2, 6, 9)),
    "average-pooling-volume": (lambda: AveragePooling(2), (3, 2, 4, 6, 8)),
    "matrix": (lambda: MatrixOperator(kernel(7, 30), (2, 3, 5)), (3, 2, 3, 5)),
    "matrix-vector": (lambda: MatrixOperator(kernel(7, 6)), (3, 6)),
    "matrix-a-sample": (lambda: MatrixOperator(kernel(3, 7, 30), (2, 3, 5)), (3, 2, 3, 5)),
    "matrix-complex": (lambda: MatrixOperator(maps(7, 30), (4, 3, 5)), (3, 4, 3, 5)),
    "composition": (
        lambda: Composition(CartesianMRI(mask(15)), Inpainting(mask(12, 15)), Blur(kernel(3, 3), "zero")),
        (3, 2, 12, 15),
    ),
    "stack": (lambda: Stack(CartesianMRI(mask(15)), CartesianMRI(mask(3, 1, 12, 15))), (3, 2, 12, 15)),
    "adapter-object": (lambda: as_operator(Pair()), (3, 2, 5, 7)),
    "adapter-noisy": (lambda: as_operator(Noisy()), (3, 2, 5, 7)),
    "adapter-functions": (
        lambda: as_operator(lambda x: x[..., 1:], lambda y: torch.nn.functional.pad(y, (1, 0))),
        (3, 7),
    ),
    "adapter-derived": (lambda: as_operator(lambda x: x.diff(dim=-1), x_shape=(2, 5, 7)), (3, 2, 5, 7)),
    "adapter-derived-complex": (
        lambda: as_operator(lambda x: torch.fft.rfft2(x) * (1 + 2j), x_shape=(1, 5, 6)),
        (3, 1, 5, 6),
    ),
}


def make(name: str, dtype: torch.dtype) -> tuple[LinearOperator, Tensor]:
    """The operator in a dtype, and a random batch."""
    build, shape = OPERATORS[name]
    return build().to(dtype), torch.randn(shape, dtype=dtype) * math.sqrt(2)
