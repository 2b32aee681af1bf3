"""Inverse problems: linear operators with exact adjoints, and observations made through them."""

from invertible.physics.adapters import as_operator
from invertible.physics.adjointness import adjoint_error, check_operator
from invertible.physics.baselines import baseline
from invertible.physics.blur import Blur
from invertible.physics.composition import Composition, Stack
from invertible.physics.denoising import Denoising
from invertible.physics.inpainting import Inpainting, random_pixels
from invertible.physics.kernels import gaussian_kernel, motion_kernel
from invertible.physics.least_squares import least_squares
from invertible.physics.masks import EquispacedColumns, RandomColumns
from invertible.physics.matrix import MatrixOperator
from invertible.physics.mri import CartesianMRI
from invertible.physics.noise import add_noise
from invertible.physics.norm import operator_norm
from invertible.physics.operator import LinearOperator, Observation
from invertible.physics.super_resolution import AveragePooling, Downsampling
from invertible.physics.total_variation import total_variation

__all__ = [
    "AveragePooling",
    "Blur",
    "CartesianMRI",
    "Composition",
    "Denoising",
    "Downsampling",
    "EquispacedColumns",
    "Inpainting",
    "LinearOperator",
    "MatrixOperator",
    "Observation",
    "RandomColumns",
    "Stack",
    "add_noise",
    "adjoint_error",
    "as_operator",
    "baseline",
    "check_operator",
    "gaussian_kernel",
    "least_squares",
    "motion_kernel",
    "operator_norm",
    "random_pixels",
    "total_variation",
]
