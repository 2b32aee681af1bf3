"""PyTorch alone: everything stored, or `torch.utils.checkpoint`."""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from chains.nets import LogScale, Pairs

Parts = tuple[Tensor, Tensor]


class Block(nn.Module):
    """One block on the two halves kept apart; affine with a scale."""

    def __init__(self, f: nn.Module, g: nn.Module, log_scale: LogScale | None = None):
        super().__init__()
        self.f, self.g, self.log_scale = f, g, log_scale

    def forward(self, parts: Parts) -> Parts:
        a, b = parts
        a = self.update(a, self.f(b))
        return a, self.update(b, self.g(a))

    def inverse(self, parts: Parts) -> Parts:
        a, b = parts
        b = self.downdate(b, self.g(a))
        return self.downdate(a, self.f(b)), b

    def update(self, x: Tensor, parameters: Tensor) -> Tensor:
        if self.log_scale is None:
            return x + parameters
        raw, shift = parameters.chunk(2, 1)
        return x * self.log_scale(raw).exp() + shift

    def downdate(self, y: Tensor, parameters: Tensor) -> Tensor:
        if self.log_scale is None:
            return y - parameters
        raw, shift = parameters.chunk(2, 1)
        return (y - shift) * (-self.log_scale(raw)).exp()


class Plain(nn.Module):
    """The chain; `saving` is "all", "block" (one a segment of torch's checkpoint) or "root" (√L segments)."""

    def __init__(self, pairs: Pairs, log_scale: LogScale | None, saving: str):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(f, g, log_scale) for f, g in pairs))
        self.saving = saving

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(2, 1)
        if self.saving == "all":
            parts = self.blocks(parts)
        elif self.saving == "root":
            segments = max(1, round(math.sqrt(len(self.blocks))))
            parts = checkpoint_sequential(self.blocks, segments, parts, use_reentrant=False)
        else:
            for block in self.blocks:
                parts = checkpoint(block, parts, use_reentrant=False)
        return torch.cat(parts, 1)


def additive(pairs: Pairs, *, keep_rng: bool, saving: str) -> nn.Module:
    return Plain(pairs, None, saving)


def affine(pairs: Pairs, log_scale: LogScale, *, keep_rng: bool, saving: str) -> nn.Module:
    return Plain(pairs, log_scale, saving)
