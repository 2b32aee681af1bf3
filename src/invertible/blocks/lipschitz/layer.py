"""What linear layers and convolutions with a certified norm have in common."""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor, nn

from invertible.blocks.lipschitz.cache import WeightCache
from invertible.blocks.lipschitz.certificate import Certificate
from invertible.blocks.lipschitz.scaled import scaled_weight
from invertible.errors import ConfigError

NORMS = (1, 2, math.inf)
Layer = TypeVar("Layer", bound="LipschitzLayer")


def check_target(owner: str, lipschitz: float, norm: float) -> None:
    """Check a target and the name of its norm.

    Raises:
        ConfigError: if the target is not positive and finite, or the norm none of 1, 2 and `math.inf`.
    """
    if not 0 < lipschitz < math.inf:
        raise ConfigError(f"{owner}: expected lipschitz to be a positive number, got {lipschitz}.")
    if norm not in NORMS:
        raise ConfigError(f"{owner}: expected norm to be 1, 2 or math.inf, got {norm!r}.")


class LipschitzLayer(nn.Module):
    """Base of layers that divide their weight by its certified norm, where that exceeds a target.

    A layer is this class and one of torch's; it says what bounds the norm.

    Attributes:
        weight: what is learned.
        lipschitz: the target c.
        norm: 1, 2 or `math.inf`, of input and output.
    """

    weight: Tensor
    bias: Tensor | None
    lipschitz: float
    norm: float
    _cache: WeightCache

    def set_target(self, lipschitz: float, norm: float) -> None:
        """Set the target and its norm.

        Raises:
            ConfigError: if the target is not positive or the norm another one.
        """
        check_target(type(self).__name__, lipschitz, norm)
        self.lipschitz, self.norm = lipschitz, norm
        self._cache = WeightCache()

    @classmethod
    def of(cls: type[Layer], layer: nn.Module, lipschitz: float, norm: float = 2) -> Layer:
        """The layer with a certified constant, sharing the weight and the bias of one of torch's."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        common = vars(nn.Module())
        vars(made).update({name: value for name, value in vars(layer).items() if name not in common})
        for name, parameter in layer.named_parameters(recurse=False):
            made.register_parameter(name, parameter)
        if layer.bias is None:
            made.register_parameter("bias", None)
        made.training = layer.training
        made.set_target(lipschitz, norm)
        return made

    def weight_in_use(self, size: tuple[int, ...] = ()) -> Tensor:
        """W min(1, c/|W|), of the shape of W; differentiable.

        Args:
            size: spatial sizes of a convolution's image.
        """
        return scaled_weight(
            self.weight,
            self.lipschitz,
            lambda weight: self.certificate(weight, size),
            cache=self._cache,
            key=size if self.norm == 2 else (),
        )

    def certificate(self, weight: Tensor, size: tuple[int, ...] = ()) -> Certificate:
        """Bound of the norm of a weight of this layer."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what was kept of the weight."""
        self._cache.clear()

    def extra_repr(self) -> str:
        """Sizes, target and norm."""
        return f"{super().extra_repr()}, lipschitz={self.lipschitz:.4g}, norm={self.norm}"
