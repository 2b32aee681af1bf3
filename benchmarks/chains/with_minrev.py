"""minREV (Mangalam et al. 2022): no package; `PYTHONPATH` must hold a checkout of karttikeya/minREV."""

import rev
from torch import Tensor, nn

from chains.nets import Pairs


class _LastAxis(nn.Module):
    """A network between transpositions, for minREV splits the last axis."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.transpose(1, -1)).transpose(1, -1)


class _Block(rev.ReversibleBlock):
    """Its block, with F and G replaced."""

    def __init__(self, f, g):
        nn.Module.__init__(self)
        self.F, self.G = _LastAxis(f), _LastAxis(g)


class _Chain(nn.Module):
    def __init__(self, pairs):
        super().__init__()
        self.layers = nn.ModuleList(_Block(f, g) for f, g in pairs)

    def forward(self, x: Tensor) -> Tensor:
        return rev.RevBackProp.apply(x.transpose(1, -1), self.layers).transpose(1, -1)


def additive(pairs: Pairs, *, keep_rng: bool) -> nn.Module:
    return _Chain(pairs)
