"""Invertible neural networks whose inverses can be trusted."""

import importlib
from typing import TYPE_CHECKING, Any

from invertible.ball import Ball
from invertible.bijection import Bijection, Domain, Inverted, LipschitzBounds, Reconstruction
from invertible.blocks import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    BatchNorm,
    ChannelPadding,
    DiagonalScaling,
    FactorOut,
    Flatten,
    GradientInjection,
    Haar,
    InvertibleConv1x1,
    InvertibleLinear,
    LeakyReLU,
    Logit,
    OrthogonalCoupling,
    PaddedSwapResidual,
    Permutation,
    ReversibleResidual,
    Sigmoid,
    Softplus,
    SplineCoupling,
    Squeeze,
    Standardise,
    SwapResidual,
    Tanh,
    resampled,
)
from invertible.chain import Chain, set_memory
from invertible.classifier import Classifier
from invertible.dequantize import Dequantize
from invertible.distributions import ConditionalNormal, StandardLogistic, StandardNormal
from invertible.errors import (
    ConfigError,
    ConvergenceError,
    DataError,
    DomainError,
    InvertibleError,
    MissingDependencyError,
    NotInvertibleError,
    ShapeError,
)
from invertible.flow import Flow
from invertible.sequential import Sequential

if TYPE_CHECKING:
    from invertible.blocks import ContinuousBlock, ResidualBlock, ReversibleODE

__version__ = "0.1.0"

# Loaded at first use, so that `import invertible` costs little more than `import torch`.
_SUBPACKAGES = (
    "data",
    "image_metrics",
    "memory",
    "models",
    "physics",
    "reports",
    "representations",
    "stability",
    "testing",
    "training",
)
_LAZY = {
    "ContinuousBlock": "blocks",
    "ResidualBlock": "blocks",
    "ReversibleODE": "blocks",
    "adapt": "stability.adapters",
    "audit": "auditing",
    "load": "saving",
    "save": "saving",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in _SUBPACKAGES:
        return importlib.import_module(f"invertible.{name}")
    if name in _LAZY:
        return getattr(importlib.import_module(f"invertible.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'invertible' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBPACKAGES, *_LAZY})


__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "Ball",
    "BatchNorm",
    "Bijection",
    "Chain",
    "ChannelPadding",
    "Classifier",
    "ConditionalNormal",
    "ConfigError",
    "ContinuousBlock",
    "ConvergenceError",
    "DataError",
    "Dequantize",
    "DiagonalScaling",
    "Domain",
    "DomainError",
    "FactorOut",
    "Flatten",
    "Flow",
    "GradientInjection",
    "Haar",
    "Inverted",
    "InvertibleConv1x1",
    "InvertibleError",
    "InvertibleLinear",
    "LeakyReLU",
    "LipschitzBounds",
    "Logit",
    "MissingDependencyError",
    "NotInvertibleError",
    "OrthogonalCoupling",
    "PaddedSwapResidual",
    "Permutation",
    "Reconstruction",
    "ResidualBlock",
    "ReversibleODE",
    "ReversibleResidual",
    "Sequential",
    "ShapeError",
    "Sigmoid",
    "Softplus",
    "SplineCoupling",
    "Squeeze",
    "StandardLogistic",
    "StandardNormal",
    "Standardise",
    "SwapResidual",
    "Tanh",
    "resampled",
    "set_memory",
]
