"""What every way of computing log|det(I + J)| offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from invertible.blocks.residual.map import ResidualMap
from invertible.errors import choose

GRADIENTS = {"neumann": "neumann", "autograd": "autograd"}


@dataclass(frozen=True)
class LogDet(ABC):
    """A way of computing log|det(I + J)|, J the Jacobian of g at x: a value object, passed to `ResidualBlock`."""

    @abstractmethod
    def estimate(self, g: ResidualMap, x: Tensor, *, gradient: str) -> tuple[Tensor, Tensor]:
        """g(x), and log|det(I + J)| of every sample.

        Args:
            g: the map.
            x: shape (B, ...).
            gradient: `"neumann"` or `"autograd"`, see `ResidualBlock`; has no effect on the values.

        Returns:
            g(x) of shape (B, ...) and the log-determinant (B,), in float32 at least.
        """

    def truncation(self, lipschitz: float, dimensions: int) -> float:
        """Certified upper bound of |E[estimate] - log|det(I + J)||, in nats, for |J| <= lipschitz.

        Args:
            lipschitz: L, below 1, in any norm of matrices.
            dimensions: D, numbers in a sample.
        """
        return 0.0


def check_gradient(owner: str, gradient: str) -> str:
    """`"neumann"` or `"autograd"`.

    Raises:
        ConfigError: if it is another.
    """
    return choose(owner, "gradient", gradient, GRADIENTS)
