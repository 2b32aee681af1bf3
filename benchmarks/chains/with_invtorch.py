"""invtorch (Hosseini 2021), which has no coupling of its own: its users write `function` and `inverse`."""

import torch
from invtorch.nn import Module
from torch import nn

from chains.nets import LogScale, Pairs
from chains.with_torch import Block


class _Coupling(Module):
    def __init__(self, block, keep_rng):
        super().__init__()
        self.block, self.seed = block, keep_rng

    def function(self, x):
        return torch.cat(self.block(x.chunk(2, 1)), 1)

    def inverse(self, y):
        return torch.cat(self.block.inverse(y.chunk(2, 1)), 1)


def additive(pairs: Pairs, *, keep_rng: bool) -> nn.Module:
    return nn.Sequential(*(_Coupling(Block(f, g), keep_rng) for f, g in pairs))


def affine(pairs: Pairs, log_scale: LogScale, *, keep_rng: bool) -> nn.Module:
    return nn.Sequential(*(_Coupling(Block(f, g, log_scale), keep_rng) for f, g in pairs))
