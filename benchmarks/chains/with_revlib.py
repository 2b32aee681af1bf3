"""revlib (HomebrewNLP 2021), in two of its modes."""

import revlib
import torch
from torch import nn

from chains.nets import LogScale, Pairs


def _chain(pairs, mode, **options):
    nets = [net for pair in pairs for net in pair]
    return revlib.ReversibleSequential(*nets, split_dim=1, memory_mode=revlib.MemoryModes[mode], **options)


def additive(pairs: Pairs, *, keep_rng: bool, mode: str) -> nn.Module:
    return _chain(pairs, mode)


def affine(pairs: Pairs, log_scale: LogScale, *, keep_rng: bool, mode: str) -> nn.Module:
    def forward(x, parameters):
        raw, shift = parameters.chunk(2, 1)
        return x * torch.exp(log_scale(raw)) + shift

    def inverse(y, parameters):
        raw, shift = parameters.chunk(2, 1)
        return (y - shift) * torch.exp(-log_scale(raw))

    return _chain(pairs, mode, coupling_forward=[forward], coupling_inverse=[inverse])
