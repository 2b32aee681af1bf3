"""RevTorch (Gomez's block after the port by R. Bertens, 2019)."""

from revtorch import ReversibleBlock, ReversibleSequence
from torch import nn

from chains.nets import Pairs


def additive(pairs: Pairs, *, keep_rng: bool) -> nn.Module:
    return ReversibleSequence(nn.ModuleList(ReversibleBlock(f, g, fix_random_seed=keep_rng) for f, g in pairs))
