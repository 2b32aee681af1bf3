"""Normal numbers that a seed reproduces on every device."""

from __future__ import annotations

import torch
from torch import Tensor


def seeded(generator: torch.Generator | int | None) -> torch.Generator | None:
    """A generator of a seed; generators and `None`, torch's own generator, are returned as they are."""
    return torch.Generator().manual_seed(generator) if isinstance(generator, int) else generator


def standard_normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent N(0, 1) numbers of a tensor's shape, dtype and device; real and imaginary parts have variance 1 each.

    They are drawn where the generator is, so that a seed gives the same ones on every device.
    """
    real = torch.view_as_real(like) if like.is_complex() else like
    device = like.device if generator is None else generator.device
    drawn = torch.randn(real.shape, generator=generator, dtype=real.dtype, device=device).to(like.device)
    return torch.view_as_complex(drawn) if like.is_complex() else drawn
