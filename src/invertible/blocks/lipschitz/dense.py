"""Contractive networks whose layers see all earlier ones: i-DenseNet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from invertible.blocks.lipschitz.choices import Activation, activation_of, constant_of, widening
from invertible.blocks.lipschitz.convolution import LipschitzConv2d
from invertible.blocks.lipschitz.linear import LipschitzLinear
from invertible.blocks.lipschitz.net import ContractiveNet, Layer, start_orthogonal
from invertible.blocks.lipschitz.stack import check_kernels, check_widths
from invertible.errors import ConfigError
from invertible.norms import magnitude_bound, outward, times


class Concatenation(nn.Module):
    """[eta_1 x, eta_2 z] with learned eta_1, eta_2 >= 0 and |(eta_1, eta_2)|_p = 1 (Perugachi-Diaz et al. 2021, 4.1).

    For z = h(x) with Lip(h) <= 1 the constant is |(eta_1, eta_2 Lip(h))|_p <= 1.

    Args:
        norm: p.
    """

    def __init__(self, norm: float) -> None:
        super().__init__()
        self.norm = norm
        self.raw = nn.Parameter(torch.zeros(2))

    def weights(self, dtype: torch.dtype) -> Tensor:
        """eta_1 and eta_2, of which the logarithm of the ratio is learned: (2,).

        They are made smaller by more than rounding to the dtype can add.
        """
        wide = self.raw.to(torch.promote_types(dtype, torch.float32))
        # By the larger one, so that neither overflows.
        free = torch.exp(wide - wide.max())
        normed = free if self.norm == math.inf else free / torch.linalg.vector_norm(free, self.norm)
        return (normed * (1 - 4 * torch.finfo(dtype).eps)).to(dtype)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Along axis 1."""
        first, second = self.weights(x.dtype)
        return torch.cat((first * x, second * z), 1)

    def constant(self, inner: float, norm: float) -> float:
        """|(eta_1, eta_2 inner)| in a norm, with the weights in use."""
        first, second = (float(each) for each in self.weights(self.raw.dtype).detach().double())
        bound = {1: first + second * inner, 2: math.hypot(first, second * inner), math.inf: max(first, second * inner)}
        return outward(bound[norm], 4)


class LipschitzDense(ContractiveNet):
    """Layers x_(l+1) = [eta_1 x_l, eta_2 phi(W_l x_l)] of constant 1, and a last one of the network's constant."""

    layers: nn.ModuleList
    activations: nn.ModuleList
    concatenations: nn.ModuleList
    last: Layer

    def _fill(
        self,
        make: tuple[Callable[..., Layer], Callable[..., Layer]],
        channels: int,
        growth: Sequence[int],
        activation: Callable[[], nn.Module],
        *,
        preactivation: bool,
    ) -> None:
        """Make all layers, the last one by the second factory; `growth` is what a layer adds."""
        factor, constant = widening(activation), constant_of(activation(), self.norm)
        assert constant is not None
        name = type(self).__name__
        for index, width in enumerate(growth):
            if not preactivation and width % factor:
                raise ConfigError(
                    f"{name}: expected growth to be even, for the activation doubles it, got growth[{index}]={width}."
                )
        target = 1 / outward(constant, 8) if constant > 0 else 1.0
        self.preactivation, self.channels = preactivation, channels
        self.layers, self.concatenations = nn.ModuleList(), nn.ModuleList()
        for width in growth:
            sizes = (channels * factor, width) if preactivation else (channels, width // factor)
            self.layers.append(make[0](*sizes, lipschitz=target, norm=self.norm))
            self.concatenations.append(Concatenation(self.norm))
            channels += width
        self.activations = nn.ModuleList(activation() for _ in range(len(growth) + preactivation))
        inner = channels * factor if preactivation else channels
        last = self.lipschitz * (target if preactivation else 1.0)
        self.last = make[1](inner, self.channels, lipschitz=last, norm=self.norm)
        start_orthogonal(*self.layers, self.last)  # pyright: ignore[reportArgumentType]
        first = self.layers[0] if growth else self.last
        self._conditioned_by(len(first.weight))  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """g(x | condition), of the shape of x."""
        self._check(x, condition)
        hidden, activations = x, list(self.activations)
        for index, (layer, concatenation) in enumerate(zip(self.layers, self.concatenations, strict=True)):
            new = layer(activations[index](hidden) if self.preactivation else hidden)
            new = self._shifted(new, condition, x) if index == 0 else new
            hidden = concatenation(hidden, new if self.preactivation else activations[index](new))
        out = self.last(activations[-1](hidden) if self.preactivation else hidden)
        return out if len(self.layers) else self._shifted(out, condition, x)

    def lipschitz_bound(self, norm: float = 2, size: tuple[int, ...] | None = None) -> float:
        """Product of the concatenations' and the last layer's constants, in x, with the weights in use.

        Args:
            norm: 1, 2 or `math.inf`; in the network's own it is at most `lipschitz`, to rounding.
            size: spatial sizes of the image; `None` for a bound that holds at every size.
        """
        bound = 1.0
        for layer, activation, concatenation in zip(self.layers, self.activations, self.concatenations, strict=False):
            assert isinstance(layer, Layer)
            assert isinstance(concatenation, Concatenation)
            inner = times(layer.lipschitz_bound(norm, size), constant_of(activation, norm) or 0.0)
            bound = times(bound, concatenation.constant(outward(inner), norm))
        if self.preactivation:
            bound = times(bound, constant_of(self.activations[-1], norm) or 0.0)
        return outward(times(bound, self.last.lipschitz_bound(norm, size)), 2 * len(self.layers) + 2)

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """Layer by layer; unknown, for it has no bound, where a condition is added."""
        if self.condition is not None:
            return torch.full((1,), math.inf, dtype=torch.float64)
        hidden = magnitudes.expand(self.channels)
        for index, layer in enumerate(self.layers):
            activation = self.activations[index]
            order = (activation, layer) if self.preactivation else (layer, activation)
            new = magnitude_bound(order[1], magnitude_bound(order[0], hidden))
            # Weights of the concatenation are at most 1.
            hidden = torch.cat((hidden, new))
        hidden = magnitude_bound(self.activations[-1], hidden) if self.preactivation else hidden
        return magnitude_bound(self.last, hidden)


class LipschitzDenseNet(LipschitzDense):
    """The dense network of i-DenseNet on vectors, whose constant in x is certified to be at most a target.

    x_(l+1) = [eta_1 x_l, eta_2 phi(W_l x_l)] with |W_l| Lip(phi) <= 1, learned eta_1, eta_2 >= 0 and |eta| = 1, hence
    constant 1; g = W x_n with |W| <= lipschitz (Perugachi-Diaz, Tomczak & Bhulai 2021, sections 4.1 and 4.2). With
    `preactivation` eta_2 W_l phi(x_l), and g = W phi(x_n).

    Args:
        features: D.
        growth: features that each layer adds; even for activations that double them, such as `"clipswish"`.
        lipschitz: the constant, in (0, 1) for a residual block.
        norm: 1, 2 or `math.inf`; eta has norm 1 in this one.
        activation: as for `LipschitzMLP`.
        condition_features: width F of a condition, 0 for none.
        preactivation: activations come first.

    Shapes:
        x: (B, D); condition: (B, F); result: (B, D).

    Cost: that of the layers, on D + the growth so far; for new weights, that of their norms.

    Raises:
        ConfigError: if an argument is out of its range.
        DomainError: by `forward`, if a weight is not finite.

    References:
        Perugachi-Diaz, Tomczak & Bhulai, Invertible DenseNets with concatenated LipSwish, NeurIPS 2021.

    Example:
        >>> g = LipschitzDenseNet(2, (64, 64, 64), lipschitz=0.97)
        >>> y = x + g(x)
    """

    def __init__(
        self,
        features: int,
        growth: Sequence[int] = (64, 64, 64),
        *,
        lipschitz: float = 0.97,
        norm: float = 2,
        activation: Activation = "clipswish",
        condition_features: int = 0,
        preactivation: bool = False,
    ) -> None:
        super().__init__(lipschitz, norm, condition_features, spatial_dims=0)
        check_widths("LipschitzDenseNet", growth, features=features)
        factory = activation_of("LipschitzDenseNet", activation, norm)
        self._fill((LipschitzLinear, LipschitzLinear), features, growth, factory, preactivation=preactivation)


class LipschitzDenseConvNet(LipschitzDense):
    """`LipschitzDenseNet` on images: convolutions that keep the image's size, concatenated along the channels.

    Args:
        channels: C.
        growth: channels that each layer adds; even for activations that double them, such as `"clipswish"`.
        kernel_size: odd, of all layers but the last one, whose kernel is 1 (the paper's layers are 3, the last one 1).
        lipschitz: the constant, in (0, 1) for a residual block.
        norm: 1, 2 or `math.inf`.
        activation: as for `LipschitzMLP`.
        condition_features: channels F of a condition, 0 for none.
        preactivation: activations come first.

    Shapes:
        x: (B, C, H, W); condition: (B, F), or (B, F, H', W') with multiples of H and W; result: (B, C, H, W).

    Cost: that of the convolutions, on C + the growth so far; for new weights or another size, that of their norms.

    Raises:
        ConfigError: if an argument is out of its range.
        DomainError: by `forward`, if a weight is not finite.

    Example:
        >>> g = LipschitzDenseConvNet(3, (64, 64, 64), lipschitz=0.97)
        >>> y = x + g(x)
    """

    def __init__(
        self,
        channels: int,
        growth: Sequence[int] = (64, 64, 64),
        *,
        kernel_size: int = 3,
        lipschitz: float = 0.97,
        norm: float = 2,
        activation: Activation = "clipswish",
        condition_features: int = 0,
        preactivation: bool = False,
    ) -> None:
        super().__init__(lipschitz, norm, condition_features, spatial_dims=2)
        check_widths("LipschitzDenseConvNet", growth, channels=channels)
        check_kernels("LipschitzDenseConvNet", [kernel_size])
        factory = activation_of("LipschitzDenseConvNet", activation, norm)
        layer = partial(LipschitzConv2d, kernel_size=kernel_size, padding=kernel_size // 2)
        last = partial(LipschitzConv2d, kernel_size=1)
        self._fill((layer, last), channels, growth, factory, preactivation=preactivation)
