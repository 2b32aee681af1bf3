"""FrEIA (Ardizzone et al. 2018-2022)."""

from FrEIA.framework import SequenceINN
from FrEIA.modules import GLOWCouplingBlock, NICECouplingBlock
from torch import Tensor, nn

from chains.nets import LogScale, Pairs, input_channels


class _OutputOnly(nn.Module):
    """Their network without its log-determinant. It wants the size of an image, and checks none."""

    def __init__(self, pairs, block, order, **options):
        super().__init__()
        self.network = SequenceINN(2 * input_channels(pairs[0][0]), 32, 32)
        for pair in pairs:
            nets = iter(pair[::order])
            self.network.append(block, subnet_constructor=lambda *_, nets=nets: next(nets), **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, jac=False)[0]


def additive(pairs: Pairs, *, keep_rng: bool) -> nn.Module:
    return _OutputOnly(pairs, NICECouplingBlock, 1)


def affine(pairs: Pairs, log_scale: LogScale, *, keep_rng: bool) -> nn.Module:
    # They ask for the network of y_2 first, and multiply what the clamp returns by `clamp`.
    return _OutputOnly(pairs, GLOWCouplingBlock, -1, clamp=1.0, clamp_activation=log_scale)
