"""Blocks: what models are made of."""

import importlib
from typing import TYPE_CHECKING, Any

from invertible.blocks.activations import LeakyReLU, Sigmoid, Softplus, Tanh
from invertible.blocks.actnorm import ActNorm
from invertible.blocks.additive import AdditiveCoupling
from invertible.blocks.affine import AffineCoupling
from invertible.blocks.batch_norm import BatchNorm
from invertible.blocks.gated_convnet import GatedConvNet, gated_convnet
from invertible.blocks.gradient_injection import GradientInjection
from invertible.blocks.haar import Haar
from invertible.blocks.linear import InvertibleConv1x1, InvertibleLinear
from invertible.blocks.logit import Logit
from invertible.blocks.multiscale import FactorOut, resampled
from invertible.blocks.orthogonal_coupling import OrthogonalCoupling
from invertible.blocks.padding import ChannelPadding, PaddedSwapResidual
from invertible.blocks.permutation import Permutation
from invertible.blocks.reshape import Flatten, Squeeze
from invertible.blocks.reversible import ReversibleResidual
from invertible.blocks.scaling import DiagonalScaling
from invertible.blocks.splines import SplineCoupling
from invertible.blocks.standardise import Standardise
from invertible.blocks.swap import SwapResidual

if TYPE_CHECKING:
    from invertible.blocks.continuous import ContinuousBlock
    from invertible.blocks.residual import ResidualBlock
    from invertible.blocks.reversible_ode import ReversibleODE

# Loaded at first use: solvers and certificates come with them.
_LAZY = {"ContinuousBlock": "continuous", "ResidualBlock": "residual", "ReversibleODE": "reversible_ode"}
_SUBPACKAGES = (*_LAZY.values(), "lipschitz")


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in _SUBPACKAGES:
        return importlib.import_module(f"invertible.blocks.{name}")
    if name in _LAZY:
        return getattr(importlib.import_module(f"invertible.blocks.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'invertible.blocks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_SUBPACKAGES})


__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "BatchNorm",
    "ChannelPadding",
    "ContinuousBlock",
    "DiagonalScaling",
    "FactorOut",
    "Flatten",
    "GatedConvNet",
    "GradientInjection",
    "Haar",
    "InvertibleConv1x1",
    "InvertibleLinear",
    "LeakyReLU",
    "Logit",
    "OrthogonalCoupling",
    "PaddedSwapResidual",
    "Permutation",
    "ResidualBlock",
    "ReversibleODE",
    "ReversibleResidual",
    "Sigmoid",
    "Softplus",
    "SplineCoupling",
    "Squeeze",
    "Standardise",
    "SwapResidual",
    "Tanh",
    "gated_convnet",
    "resampled",
]
