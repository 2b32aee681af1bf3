"""Small contractions for the tests of log-determinants."""

import torch
from torch import Tensor, nn

from invertible.blocks.residual.map import ResidualMap


class Contraction(nn.Module):
    """c W2 tanh(W1 x + b + U condition) with |W1|_2 = |W2|_2 = 1, so that Lip = c."""

    norm = 2.0

    def __init__(self, features: int, lipschitz: float = 0.9, condition_features: int = 0, hidden: int = 16) -> None:
        super().__init__()
        self.lipschitz, self.condition_features = lipschitz, condition_features
        self.first = nn.Parameter(_unit(torch.randn(hidden, features)))
        self.last = nn.Parameter(_unit(torch.randn(features, hidden)))
        self.bias = nn.Parameter(0.3 * torch.randn(hidden))
        self.mixing = nn.Parameter(torch.randn(hidden, condition_features)) if condition_features else None

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, features), or (B, features, ...) with the same map at every position."""
        hidden = torch.einsum("hd,bd...->bh...", self.first, x)
        offset = self.bias if condition is None or self.mixing is None else self.bias + condition @ self.mixing.mT
        shape = (*offset.shape, *(1,) * (x.dim() - 2)) if offset.dim() == 2 else (-1, *(1,) * (x.dim() - 2))
        hidden = torch.tanh(hidden + offset.reshape(shape))
        return self.lipschitz * torch.einsum("dh,bh...->bd...", self.last, hidden)

    def lipschitz_bound(self) -> float:
        """The product of the norms."""
        norms = [float(torch.linalg.matrix_norm(w.detach().double(), 2)) for w in (self.first, self.last)]
        return self.lipschitz * norms[0] * norms[1]


def _unit(weight: Tensor) -> Tensor:
    return weight / torch.linalg.matrix_norm(weight, 2)


def contraction(features: int, lipschitz: float = 0.9, condition: Tensor | None = None) -> ResidualMap:
    """The map of a fresh one in float64."""
    width = 0 if condition is None else condition.shape[1]
    return ResidualMap(Contraction(features, lipschitz, width).double(), condition, lipschitz, 2.0)


def gradients(g: ResidualMap, value: Tensor, x: Tensor) -> list[Tensor]:
    """Of a scalar with respect to x, the parameters and the condition."""
    leaves = [x, *g.net.parameters(), *([] if g.condition is None else [g.condition])]
    return [each.flatten() for each in torch.autograd.grad(value, leaves, materialize_grads=True, allow_unused=True)]
