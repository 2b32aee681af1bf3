"""Contractive networks of layers in a row: on vectors and on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from invertible.blocks.lipschitz.choices import Activation, activation_of, constant_of, widening
from invertible.blocks.lipschitz.convolution import LipschitzConv2d
from invertible.blocks.lipschitz.linear import LipschitzLinear
from invertible.blocks.lipschitz.net import ContractiveNet, Layer, start_orthogonal
from invertible.errors import ConfigError, require_positive
from invertible.norms import magnitude_bound, outward, times


class LipschitzStack(ContractiveNet):
    """Layers with activations between them, and before the first one if asked for; every layer has the same constant.

    With n layers of constant c and m activations of constant a: c = (lipschitz/a^m)^(1/n), so that
    Lip(g) <= c^n a^m = lipschitz.
    """

    layers: nn.ModuleList
    activations: nn.ModuleList

    def _fill(
        self, layers: Sequence[Callable[..., Layer]], activation: Callable[[], nn.Module], *, first: bool
    ) -> None:
        """Make the layers with their targets, the activations, and the condition's map."""
        constant = constant_of(activation(), self.norm)
        assert constant is not None
        count = len(layers)
        self.activations = nn.ModuleList(activation() for _ in range(count if first else count - 1))
        share = (self.lipschitz / constant ** len(self.activations)) ** (1 / count)
        # Rounded downwards, so that the product does not exceed the target.
        share /= outward(1.0, 4 * count)
        self.layers = nn.ModuleList(layer(lipschitz=share, norm=self.norm) for layer in layers)
        start_orthogonal(*(self._layer(index) for index in range(count)))
        self.channels = len(self._layer(-1).weight)
        self._conditioned_by(len(self._layer(0).weight))

    def _layer(self, index: int) -> Layer:
        layer = self.layers[index]
        assert isinstance(layer, Layer)
        return layer

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """g(x | condition), of the shape of x."""
        self._check(x, condition)
        activations = iter(self.activations)
        hidden = next(activations)(x) if len(self.activations) == len(self.layers) else x
        hidden = self._shifted(self.layers[0](hidden), condition, x)
        for activation, layer in zip(activations, list(self.layers)[1:], strict=True):
            hidden = layer(activation(hidden))
        return hidden

    def lipschitz_bound(self, norm: float = 2, size: tuple[int, ...] | None = None) -> float:
        """Product of the layers' and the activations' constants, in x, with the weights in use.

        Args:
            norm: 1, 2 or `math.inf`; in the network's own it is at most `lipschitz`, to rounding.
            size: spatial sizes of the image; `None` for a bound that holds at every size.
        """
        bound = 1.0
        for index in range(len(self.layers)):
            bound = times(bound, self._layer(index).lipschitz_bound(norm, size))
        for activation in self.activations:
            bound = times(bound, constant_of(activation, norm) or 0.0)
        return outward(bound, 2 * len(self.layers))

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """Layer by layer; unknown, for it has no bound, where a condition is added."""
        activations = iter(self.activations)
        if len(self.activations) == len(self.layers):
            magnitudes = magnitude_bound(next(activations), magnitudes)
        magnitudes = magnitude_bound(self.layers[0], magnitudes)
        if self.condition is not None:
            magnitudes = torch.full_like(magnitudes, torch.inf)
        for activation, layer in zip(activations, list(self.layers)[1:], strict=True):
            magnitudes = magnitude_bound(layer, magnitude_bound(activation, magnitudes))
        return magnitudes


class LipschitzMLP(LipschitzStack):
    """Linear layers with activations between them, whose Lipschitz constant in x is certified to be at most a target.

    g(x | h) = W_n phi(... phi(W_1 x + b_1 + U h)) + b_n with |W_i| <= c, see `LipschitzLinear`; U is free. Weights
    start orthogonal.

    Args:
        features: D.
        hidden: widths of the hidden layers; none for a linear map.
        lipschitz: the constant, in (0, 1) for a residual block.
        norm: 1, 2 or `math.inf`.
        activation: `"lipswish"`, `"clipswish"`, `"maxmin"`, `"fullsort"`, `"cube"`, `"elu"`, `"tanh"`, `"softplus"`, or
            a factory `() -> Module`.
        condition_features: width F of a condition, 0 for none.
        preactivation: begin with an activation, as the second and later blocks of a residual flow do.

    Shapes:
        x: (B, D); condition: (B, F); result: (B, D).

    Cost: that of the layers; for new weights, that of their norms.

    Raises:
        ConfigError: if an argument is out of its range.
        DomainError: by `forward`, if a weight is not finite.

    References:
        Behrmann et al., Invertible residual networks, ICML 2019; Chen et al., Residual flows for invertible generative
        modeling, NeurIPS 2019.

    Example:
        >>> g = LipschitzMLP(2, (128, 128), lipschitz=0.97)
        >>> y = x + g(x)
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (128, 128),
        *,
        lipschitz: float = 0.97,
        norm: float = 2,
        activation: Activation = "lipswish",
        condition_features: int = 0,
        preactivation: bool = False,
    ) -> None:
        super().__init__(lipschitz, norm, condition_features, spatial_dims=0)
        check_widths("LipschitzMLP", hidden, features=features)
        factory = activation_of("LipschitzMLP", activation, norm)
        pairs = _pairs((features, *hidden, features), widening(factory), preactivation=preactivation)
        self._fill([partial(LipschitzLinear, *pair) for pair in pairs], factory, first=preactivation)


class LipschitzConvNet(LipschitzStack):
    """Convolutions with activations between them, whose Lipschitz constant in x is certified to be at most a target.

    As `LipschitzMLP`, of `LipschitzConv2d` with zero padding that keeps the image's size: kernels of 3, 1 and 3 by
    default (Chen et al. 2019, appendix E). Layers are normalised for the size of the image that comes.

    Args:
        channels: C.
        hidden: channels of the hidden layers, one fewer than kernels.
        kernel_sizes: odd.
        lipschitz: the constant, in (0, 1) for a residual block.
        norm: 1, 2 or `math.inf`.
        activation: as for `LipschitzMLP`; `"fullsort"` sorts channels at every position.
        condition_features: channels F of a condition, 0 for none.
        preactivation: begin with an activation.

    Shapes:
        x: (B, C, H, W); condition: (B, F), or (B, F, H', W') with multiples of H and W; result: (B, C, H, W).

    Cost: that of the convolutions; for new weights or another size, that of their norms.

    Raises:
        ConfigError: if an argument is out of its range.
        DomainError: by `forward`, if a weight is not finite.

    Example:
        >>> g = LipschitzConvNet(3, (64, 64), lipschitz=0.97)
        >>> y = x + g(x)
    """

    def __init__(
        self,
        channels: int,
        hidden: Sequence[int] = (64, 64),
        *,
        kernel_sizes: Sequence[int] = (3, 1, 3),
        lipschitz: float = 0.97,
        norm: float = 2,
        activation: Activation = "lipswish",
        condition_features: int = 0,
        preactivation: bool = False,
    ) -> None:
        super().__init__(lipschitz, norm, condition_features, spatial_dims=2)
        check_widths("LipschitzConvNet", hidden, channels=channels)
        if len(kernel_sizes) != len(hidden) + 1:
            raise ConfigError(
                f"LipschitzConvNet: expected one kernel more than hidden layers, got {len(kernel_sizes)} kernel_sizes "
                f"and {len(hidden)} hidden layers."
            )
        check_kernels("LipschitzConvNet", kernel_sizes)
        factory = activation_of("LipschitzConvNet", activation, norm)
        pairs = _pairs((channels, *hidden, channels), widening(factory), preactivation=preactivation)
        sized = zip(pairs, kernel_sizes, strict=True)
        layers = [partial(LipschitzConv2d, *pair, size, padding=size // 2) for pair, size in sized]
        self._fill(layers, factory, first=preactivation)


def check_widths(owner: str, hidden: Sequence[int], **features: int) -> None:
    """Check that all widths are positive integers.

    Raises:
        ConfigError: naming the first one that is not.
    """
    require_positive(owner, **features, **{f"hidden[{index}]": width for index, width in enumerate(hidden)})


def check_kernels(owner: str, sizes: Sequence[int]) -> None:
    """Check that kernels are odd, so that padding keeps the image's size.

    Raises:
        ConfigError: naming the first one that is not.
    """
    for index, size in enumerate(sizes):
        if size < 1 or size % 2 != 1:
            raise ConfigError(f"{owner}: expected odd kernel sizes, got {size} at place {index}.")


def _pairs(widths: Sequence[int], factor: int, *, preactivation: bool) -> list[tuple[int, int]]:
    """Inputs and outputs of every layer, behind activations that multiply the width."""
    behind = [preactivation, *(True for _ in widths[2:])]
    return [(a * factor if after else a, b) for (a, b), after in zip(pairwise(widths), behind, strict=True)]
