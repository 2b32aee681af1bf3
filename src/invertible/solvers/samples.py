"""Arithmetic on batches of flat samples, each sample by itself."""

import torch
from torch import Tensor


def flat(x: Tensor) -> Tensor:
    """(B, ...) to (B, D), empty batches and samples of no axes included."""
    return x.reshape(len(x), x[:1].numel() if len(x) else x.shape[1:].numel())


def norm(x: Tensor) -> Tensor:
    """2-norms of samples: (B, D) to (B,)."""
    return torch.linalg.vector_norm(x, dim=1)


def direction(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors and lengths of samples, (B, D) and (B,); a zero stays zero."""
    length = norm(x)
    return x / torch.where(length > 0, length, 1)[:, None], length
