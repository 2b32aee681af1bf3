"""Smooth functions of one number with their first two derivatives, which the gradient of a log-determinant takes."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.blocks.lipschitz import LipSwish

Kept = tuple[Tensor, ...]
# The factor of LipSwish, see there.
SWISH = 1 / 1.1


class Smooth(ABC):
    """phi(z), phi'(z) and phi''(z), number by number; perhaps with one parameter b."""

    @abstractmethod
    def first(self, z: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, Kept]:
        """phi(z), phi'(z), and what the second derivative needs beside them."""

    @abstractmethod
    def second(self, z: Tensor, slope: Tensor, kept: Kept, b: Tensor | None) -> Tensor:
        """phi''(z), over b if there is a b, given phi'(z) and what `first` kept."""

    def parameter(self, module: nn.Module) -> Tensor | None:
        """b, with its graph."""
        return None

    def by_parameter(self, z: Tensor, kept: Kept, second: Tensor, of_value: Tensor, of_slope: Tensor) -> Tensor:
        """The gradient for b, given those for phi(z) and for phi'(z), and what `second` returned."""
        raise NotImplementedError


class SmoothLipSwish(Smooth):
    """phi(z) = c z s(b z), s the logistic function."""

    def parameter(self, module: nn.Module) -> Tensor | None:
        """b = softplus(beta)."""
        return functional.softplus(module.beta)  # pyright: ignore[reportArgumentType]

    def first(self, z: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, Kept]:
        """phi' = c (s + b z s (1 - s))."""
        assert b is not None
        t = z * b
        s = torch.sigmoid(t)
        # c s and q = c s (1 - s).
        scaled = s * SWISH
        q = torch.addcmul(scaled, scaled, s, value=-1)
        return z * scaled, torch.addcmul(scaled, t, q), (t, s, q)

    def second(self, z: Tensor, slope: Tensor, kept: Kept, b: Tensor | None) -> Tensor:
        """phi''/b = q (2 + b z (1 - 2 s))."""
        t, s, q = kept
        return torch.addcmul(t, t, s, value=-2).add_(2).mul_(q)

    def by_parameter(self, z: Tensor, kept: Kept, second: Tensor, of_value: Tensor, of_slope: Tensor) -> Tensor:
        """d phi/db = z^2 q, and d phi'/db = z q (2 + b z (1 - 2 s))."""
        return (of_value * kept[2]).mul_(z).addcmul_(of_slope, second).mul_(z).sum()


class SmoothELU(Smooth):
    """phi(z) = z above 0, e^z - 1 below."""

    def first(self, z: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, Kept]:
        """phi' = min(1, e^z)."""
        slope = z.clamp_max(0.0).exp()
        return torch.where(z > 0, z, slope - 1), slope, ()

    def second(self, z: Tensor, slope: Tensor, kept: Kept, b: Tensor | None) -> Tensor:
        """phi'' = e^z below 0, else 0."""
        return torch.where(z > 0, 0.0, slope)


class SmoothTanh(Smooth):
    """phi(z) = tanh z."""

    def first(self, z: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, Kept]:
        """phi' = 1 - phi^2."""
        value = torch.tanh(z)
        return value, 1 - value * value, (value,)

    def second(self, z: Tensor, slope: Tensor, kept: Kept, b: Tensor | None) -> Tensor:
        """phi'' = -2 phi phi'."""
        return kept[0] * slope * -2


class SmoothSoftplus(Smooth):
    """phi(z) = log(1 + e^z)."""

    def first(self, z: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, Kept]:
        """phi' the logistic function."""
        return functional.softplus(z), torch.sigmoid(z), ()

    def second(self, z: Tensor, slope: Tensor, kept: Kept, b: Tensor | None) -> Tensor:
        """phi'' = phi' (1 - phi')."""
        return slope * (1 - slope)


_LIPSWISH, _ELU, _TANH, _SOFTPLUS = SmoothLipSwish(), SmoothELU(), SmoothTanh(), SmoothSoftplus()


def smooth(module: nn.Module) -> Smooth | None:
    """The derivatives of an activation, `None` where they are not known."""
    kind = type(module)
    if kind is LipSwish:
        return _LIPSWISH
    if kind is nn.Tanh:
        return _TANH
    if kind is nn.ELU and module.alpha == 1:
        return _ELU
    if kind is nn.Softplus and module.beta == 1 and module.threshold == 20:
        return _SOFTPLUS
    return None
