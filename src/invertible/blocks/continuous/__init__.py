"""Continuous flows: vector fields, their traces and energies, and the block that solves them."""

from invertible.blocks.continuous.block import ContinuousBlock, Evaluations
from invertible.blocks.continuous.energies import RNODE_WEIGHT, Energies, energies, keep_energies
from invertible.blocks.continuous.nets import TimeNet
from invertible.blocks.continuous.traces import Trace

__all__ = [
    "RNODE_WEIGHT",
    "ContinuousBlock",
    "Energies",
    "Evaluations",
    "TimeNet",
    "Trace",
    "energies",
    "keep_energies",
]
