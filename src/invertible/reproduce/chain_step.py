"""A training step of a chain of reversible residual blocks, with its evaluations counted and its time taken."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from invertible.blocks import ReversibleResidual
from invertible.chain import Chain


def convolutional_chain(length: int, channels: int) -> Chain:
    """Blocks whose F and G are conv-BN-ReLU-conv-BN, 3 x 3, on half of the channels."""
    return Chain(*(ReversibleResidual(_net(channels // 2), _net(channels // 2)) for _ in range(length)))


class ChainStep:
    """A training step of a copy of a chain, whose gradients exist after the first call.

    Args:
        chain: copied.
        x: a batch.
        memory: the strategy.
    """

    def __init__(self, chain: Chain, x: Tensor, memory: str) -> None:
        self.chain, self.weights = copy.deepcopy(chain), torch.randn_like(x) / math.sqrt(x.numel())
        self.chain.memory = memory
        # The chain's input is no leaf, as behind a stem.
        self.x = x.clone().requires_grad_()

    def forward(self) -> Tensor:
        """A linear loss, which keeps no output alive."""
        return (self.chain(self.x * 1)[0] * self.weights).sum()

    def __call__(self) -> None:
        """Forward and backward."""
        self.forward().backward()

    def evaluate(self) -> None:
        """The forward pass alone."""
        with torch.no_grad():
            self.forward()

    def evaluations(self) -> int:
        """How often inner networks are evaluated in one step."""
        count = 0

        def counted(*_: object) -> None:
            nonlocal count
            count += 1

        blocks = [block for block in self.chain if isinstance(block, ReversibleResidual)]
        hooks = [net.register_forward_hook(counted) for block in blocks for net in (block.f, block.g)]
        self()
        for hook in hooks:
            hook.remove()
        return count


def _net(channels: int) -> nn.Module:
    def conv() -> nn.Module:
        return nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    return nn.Sequential(conv(), nn.BatchNorm2d(channels), nn.ReLU(), conv(), nn.BatchNorm2d(channels))


def seconds(call: Callable[[], object], device: str) -> float:
    """Of one call; on a CPU of this process, which leaves out what others take of a core."""
    if torch.device(device).type == "cpu":
        start = time.process_time()
        call()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start
