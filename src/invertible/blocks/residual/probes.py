"""Random vectors v with E[v v^T] = I."""

from __future__ import annotations

import torch
from torch import Tensor

from invertible.errors import choose

PROBES = {"rademacher": "rademacher", "gaussian": "gaussian"}


def check_probe(owner: str, distribution: str) -> str:
    """The name of a distribution of probes.

    Raises:
        ConfigError: if it is none.
    """
    return choose(owner, "probe", distribution, PROBES)


def draw(distribution: str, x: Tensor, count: int) -> Tensor:
    """`count` probes for every sample of x, from the global generator of its device: (count, B, ...)."""
    shape = (count, *x.shape)
    if distribution == "gaussian":
        return torch.randn(shape, dtype=x.dtype, device=x.device)
    return torch.randint(0, 2, shape, device=x.device).to(x.dtype).mul_(2).sub_(1)


def fixed(distribution: str, like: Tensor, count: int, seed: int) -> Tensor:
    """`count` probes of a sample's shape, decided by a seed: (count, ...), the same on every device and dtype."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *like.shape[1:])
    if distribution == "gaussian":
        probes = torch.randn(shape, generator=generator, dtype=torch.float64)
    else:
        probes = torch.randint(0, 2, shape, generator=generator).double() * 2 - 1
    return probes.to(device=like.device, dtype=like.dtype)
