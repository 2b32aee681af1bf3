"""The least that constant memory can cost: the floor of time, and no design to use.

One autograd.Function for the whole chain keeps its output, and evaluates every network once more on the way down. No
care for the random state, buffers, autocast, frozen parameters, or anything else.
"""

import torch
from torch import Tensor, nn

from chains.nets import Pairs


class _Reversed(torch.autograd.Function):
    """(a, b) -> (b, a + net(b)) for every network in turn: F and G of a block, and so on."""

    @staticmethod
    def forward(ctx, x, nets, *parameters):
        a, b = x.chunk(2, 1)
        for net in nets:
            a, b = b, a + net(b)
        y = torch.cat((a, b), 1)
        ctx.nets = nets
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (a, b), (grad_a, grad_b) = (t.chunk(2, 1) for t in (*ctx.saved_tensors, grad))
        found: list[Tensor] = []
        for net in reversed(ctx.nets):
            passive = a.detach().requires_grad_()
            with torch.enable_grad():
                update = net(passive)
            own, *grads = torch.autograd.grad(update, [passive, *net.parameters()], grad_b)
            a, b = b - update.detach(), a
            del update
            grad_a, grad_b = grad_b, grad_a + own
            found[:0] = grads
        return torch.cat((grad_a, grad_b), 1), None, *found


class Minimum(nn.Module):
    """The chain in one node of the graph."""

    def __init__(self, pairs: Pairs):
        super().__init__()
        self.nets = nn.ModuleList(net for pair in pairs for net in pair)

    def forward(self, x: Tensor) -> Tensor:
        nets = list(self.nets)
        return _Reversed.apply(x, nets, *(p for net in nets for p in net.parameters()))


def additive(pairs: Pairs, *, keep_rng: bool) -> nn.Module:
    return Minimum(pairs)
