"""Small observations for the tests of models that reconstruct."""

import torch

from invertible.physics.mri import CartesianMRI
from invertible.physics.operator import Observation


def scan(batch: int = 2, size: int = 13, coils: int = 1, context: int = 0, slices: int = 0) -> Observation:
    """Every other column of k-space of random images, some samples louder than others."""
    shape = (batch, 2 * coils, *((slices,) if slices else ()), size, size + 2)
    x = torch.randn(shape) * torch.logspace(-1, 1, batch).view(-1, *(1,) * (len(shape) - 1))
    mask = torch.zeros(batch, 1, 1, size + 2, dtype=torch.bool)
    mask[..., ::2] = True
    mask[..., size // 2 : size // 2 + 4] = True
    operator = CartesianMRI(mask)
    known = torch.nn.functional.one_hot(torch.arange(batch) % context, context).to(x.dtype) if context else None
    return Observation(operator, operator(x), known)
