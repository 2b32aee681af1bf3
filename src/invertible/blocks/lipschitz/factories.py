"""Factories of contractive networks, `(features or channels) -> Module`, for residual blocks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from invertible.blocks.lipschitz.dense import LipschitzDenseConvNet, LipschitzDenseNet
from invertible.blocks.lipschitz.net import ContractiveNet
from invertible.blocks.lipschitz.stack import LipschitzConvNet, LipschitzMLP

ContractiveFactory = Callable[[int], ContractiveNet]


def lipschitz_mlp(hidden: Sequence[int] = (128, 128), **options: Any) -> ContractiveFactory:  # noqa: ANN401
    """Factory of `LipschitzMLP`, `(features) -> Module`, with its keywords."""
    return partial(LipschitzMLP, hidden=hidden, **options)


def lipschitz_convnet(hidden: Sequence[int] = (64, 64), **options: Any) -> ContractiveFactory:  # noqa: ANN401
    """Factory of `LipschitzConvNet`, `(channels) -> Module`, with its keywords."""
    return partial(LipschitzConvNet, hidden=hidden, **options)


def lipschitz_densenet(growth: Sequence[int] = (64, 64, 64), **options: Any) -> ContractiveFactory:  # noqa: ANN401
    """Factory of `LipschitzDenseNet`, `(features) -> Module`, with its keywords."""
    return partial(LipschitzDenseNet, growth=growth, **options)


def lipschitz_dense_convnet(growth: Sequence[int] = (64, 64, 64), **options: Any) -> ContractiveFactory:  # noqa: ANN401
    """Factory of `LipschitzDenseConvNet`, `(channels) -> Module`, with its keywords."""
    return partial(LipschitzDenseConvNet, growth=growth, **options)
