"""What several test files need."""

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def randomise(module: M, deviation: float = 0.3) -> M:
    """Give every parameter a random value: conditioners start at zero, where a coupling proves nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(deviation * torch.randn_like(parameter))
    return module
