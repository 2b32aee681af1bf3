"""Contractive networks: layers whose operator norm is certified to be at most a target at every call."""

from invertible.blocks.lipschitz.activations import CLipSwish, FullSort, LipschitzCube, LipSwish, MaxMin
from invertible.blocks.lipschitz.contractive import Contractive, contractive
from invertible.blocks.lipschitz.convolution import LipschitzConv1d, LipschitzConv2d, LipschitzConv3d
from invertible.blocks.lipschitz.dense import LipschitzDenseConvNet, LipschitzDenseNet
from invertible.blocks.lipschitz.factories import (
    ContractiveFactory,
    lipschitz_convnet,
    lipschitz_dense_convnet,
    lipschitz_densenet,
    lipschitz_mlp,
)
from invertible.blocks.lipschitz.linear import LipschitzLinear
from invertible.blocks.lipschitz.net import ContractiveNet
from invertible.blocks.lipschitz.stack import LipschitzConvNet, LipschitzMLP

__all__ = [
    "CLipSwish",
    "Contractive",
    "ContractiveFactory",
    "ContractiveNet",
    "FullSort",
    "LipSwish",
    "LipschitzConv1d",
    "LipschitzConv2d",
    "LipschitzConv3d",
    "LipschitzConvNet",
    "LipschitzCube",
    "LipschitzDenseConvNet",
    "LipschitzDenseNet",
    "LipschitzLinear",
    "LipschitzMLP",
    "MaxMin",
    "contractive",
    "lipschitz_convnet",
    "lipschitz_dense_convnet",
    "lipschitz_densenet",
    "lipschitz_mlp",
]
