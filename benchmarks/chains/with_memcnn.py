"""memcnn (van de Leemput et al. 2019)."""

import torch
from memcnn import AdditiveCoupling, AffineCoupling, InvertibleModuleWrapper
from torch import nn

from chains.nets import LogScale, Pairs


def _chain(couplings, keep_rng):
    options = {"keep_input": False, "keep_input_inverse": False, "preserve_rng_state": keep_rng}
    return nn.Sequential(*(InvertibleModuleWrapper(coupling, **options) for coupling in couplings))


def additive(pairs: Pairs, *, keep_rng: bool) -> nn.Module:
    return _chain([AdditiveCoupling(Fm=f, Gm=g) for f, g in pairs], keep_rng)


class _Adapter(nn.Module):
    """Scale and shift, as their coupling wants them."""

    def __init__(self, net, log_scale):
        super().__init__()
        self.net, self.log_scale = net, log_scale

    def forward(self, x):
        raw, shift = self.net(x).chunk(2, 1)
        return torch.exp(self.log_scale(raw)), shift


def affine(pairs: Pairs, log_scale: LogScale, *, keep_rng: bool) -> nn.Module:
    couplings = [AffineCoupling(f, g, adapter=lambda net: _Adapter(net, log_scale)) for f, g in pairs]
    return _chain(couplings, keep_rng)
