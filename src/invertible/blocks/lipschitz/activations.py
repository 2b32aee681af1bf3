"""Activations of contractive networks, with their Lipschitz constants."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from invertible.norms import outward

# sup |s'| of s(z) = z sigmoid(z) is 1.0998394 (see `invertible.norms.ACTIVATIONS`), whatever beta.
SWISH = 1.09984
LIPSWISH = SWISH / 1.1
# s'(z) + s'(-z) = 1, so that |(s'(z), s'(-z))| is largest where s' is: 1.0998394 and -0.0998394.
PAIR = {1: 2 * SWISH - 1, 2: math.hypot(SWISH, SWISH - 1), math.inf: SWISH}


class LipSwish(nn.Module):
    """phi(x) = x sigmoid(b x)/1.1, b = softplus(beta) learned (Chen et al. 2019, section 3.3, equation 9).

    Smooth: all derivatives are continuous, and phi'' does not vanish where phi' is large, which the gradient of a
    log-determinant needs.

    Args:
        beta: the start of beta.

    Shapes:
        any, kept.
    """

    def __init__(self, beta: float = 0.5) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(float(beta)))

    def forward(self, x: Tensor) -> Tensor:
        """phi(x)."""
        # In this order, for 1/b overflows when beta is driven far below zero.
        return x * torch.sigmoid(x * functional.softplus(self.beta).to(x.dtype)) / 1.1

    def lipschitz_bound(self, norm: float = 2) -> float:
        """1.09984/1.1, in every norm and for every beta."""
        return outward(LIPSWISH)

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """|phi(x)| <= |x|/1.1."""
        return magnitudes / 1.1


class CLipSwish(nn.Module):
    """x to [phi(x), phi(-x)]/1.004, phi = LipSwish, along axis 1 (Perugachi-Diaz et al. 2021, section 4.2).

    Twice as many channels, of which together the Jacobian has norm 1 nearly where x is far from zero: it attenuates
    gradients less than LipSwish. Smooth, as LipSwish is.

    Args:
        beta: the start of beta.

    Shapes:
        (B, C, ...) -> (B, 2 C, ...).
    """

    def __init__(self, beta: float = 0.5) -> None:
        super().__init__()
        self.swish = LipSwish(beta)

    def forward(self, x: Tensor) -> Tensor:
        """Both halves."""
        return self.swish(torch.cat((x, -x), 1)) / 1.004

    def lipschitz_bound(self, norm: float = 2) -> float:
        """0.99997 for the 2-norm, 1.0863 for norm 1, 0.9959 for infinity."""
        return outward(PAIR[norm] / 1.1 / 1.004, 4)

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """|phi(x)| <= |x|/1.1."""
        return (magnitudes / 1.1).repeat(2) if len(magnitudes) > 1 else magnitudes / 1.1


class MaxMin(nn.Module):
    """Every two neighbouring channels in descending order (Anil, Lucas & Grosse 2019, section 4.1).

    A permutation at every point: the gradient's norm is kept in every norm, and the constant is 1. An odd channel out
    stays as it is. Piecewise linear: phi'' is 0 wherever it exists, so that a log-determinant's gradient misses what
    comes from moving activations; smooth ones are to be preferred for densities.

    Shapes:
        (B, C, ...), kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(max, min) of channels (0, 1), (2, 3), ..."""
        paired = x.shape[1] // 2 * 2
        pairs = x[:, :paired].unflatten(1, (paired // 2, 2))
        first, second = pairs.unbind(2)
        ordered = torch.stack((torch.maximum(first, second), torch.minimum(first, second)), 2).flatten(1, 2)
        return ordered if paired == x.shape[1] else torch.cat((ordered, x[:, paired:]), 1)

    def lipschitz_bound(self, norm: float = 2) -> float:
        """1, in every norm."""
        return 1.0

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """Of the larger one of a pair."""
        return magnitudes.max().expand(len(magnitudes))


class FullSort(nn.Module):
    """All channels in ascending order, sorted at every position (Anil, Lucas & Grosse 2019, section 4.1).

    Constant 1 in every norm; piecewise linear, with the verdict of `MaxMin`.

    Shapes:
        (B, C, ...), kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Sort along axis 1."""
        return x.sort(1).values

    def lipschitz_bound(self, norm: float = 2) -> float:
        """1, in every norm."""
        return 1.0

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """Of the largest one."""
        return magnitudes.max().expand(len(magnitudes))


class LipschitzCube(nn.Module):
    """phi(x) = x^3/3 between -1 and 1, x - 2/3 above, x + 2/3 below (code of Chen et al. 2019).

    phi' = min(1, x^2) is continuous, phi'' jumps at 1 and -1: enough for a log-determinant's gradient, which holds
    almost everywhere. Constant 1 in every norm.

    Shapes:
        any, kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        """phi(x)."""
        inner = x.clamp(-1.0, 1.0)
        # Beyond, the clamped part is 1/3 and constant.
        return (x - inner) + inner * inner * inner / 3

    def lipschitz_bound(self, norm: float = 2) -> float:
        """1, in every norm."""
        return 1.0

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """|phi(x)| <= |x|."""
        return magnitudes
