"""An ordinary network made contractive."""

from __future__ import annotations

import copy
import math

from torch import Tensor, nn

from invertible.blocks.lipschitz.choices import constant_of
from invertible.blocks.lipschitz.convolution import (
    LipschitzConv1d,
    LipschitzConv2d,
    LipschitzConv3d,
)
from invertible.blocks.lipschitz.layer import LipschitzLayer, check_target
from invertible.blocks.lipschitz.linear import LipschitzLinear
from invertible.errors import ConfigError, ShapeError
from invertible.norms import magnitude_bound, outward, times
from invertible.norms.networks import is_sequence

REPLACED: dict[type[nn.Module], type[LipschitzLayer]] = {
    nn.Linear: LipschitzLinear,
    nn.Conv1d: LipschitzConv1d,
    nn.Conv2d: LipschitzConv2d,
    nn.Conv3d: LipschitzConv3d,
}
RESHAPING = (nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)
# Why a layer cannot stand in a contractive network, and what to do.
REMEDIES: list[tuple[tuple[type[nn.Module], ...], str]] = [
    (
        (nn.modules.batchnorm._BatchNorm,),
        "in training its map depends on the batch, and its running statistics bound nothing. Leave it out, put "
        "invertible.ActNorm between the blocks, or fold a trained one by torch.nn.utils.fuse_conv_bn_eval",
    ),
    ((nn.modules.dropout._DropoutNd,), "it is random in training, so that forward and inverse differ. Leave it out"),
    (
        (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm, nn.LocalResponseNorm),
        "its Lipschitz constant is 1/sqrt(eps), which leaves nothing to the other layers. Leave it out",
    ),
    (
        (nn.modules.conv._ConvTransposeNd,),
        "transposed convolutions are not normalised. Upsample by nn.PixelShuffle after a convolution",
    ),
    ((nn.PReLU,), "its slope is learned and may grow. Take nn.LeakyReLU, or LipSwish"),
]


class Contractive(nn.Module):
    """A network of layers in a row whose Lipschitz constant is certified to be at most a target; see `contractive`.

    Args:
        layers: in their order.
        lipschitz: the constant.
        norm: 1, 2 or `math.inf`.
    """

    condition_features = 0

    def __init__(self, layers: list[nn.Module], lipschitz: float, norm: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.lipschitz, self.norm = float(lipschitz), norm

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """g(x), of the shape of x.

        Raises:
            ShapeError: if a condition is given, or the layers change the shape.
        """
        if condition is not None:
            raise ShapeError(
                f"Contractive: takes no condition, got one of shape {tuple(condition.shape)}. Leave it out, or take "
                "LipschitzMLP or LipschitzConvNet with condition_features."
            )
        hidden = x
        for layer in self.layers:
            hidden = layer(hidden)
        if hidden.shape != x.shape:
            raise ShapeError(
                f"Contractive: expected layers that give x its shape back, {tuple(x.shape)}, got "
                f"{tuple(hidden.shape)}. End with a layer of as many features, and pad convolutions to keep their size."
            )
        return hidden

    def lipschitz_bound(self, norm: float = 2, size: tuple[int, ...] | None = None) -> float:
        """Product of the layers' constants with the weights in use, computed anew in float64; at every image size.

        Args:
            norm: 1, 2 or `math.inf`; in the network's own it is at most `lipschitz`, to rounding.
            size: not needed: sizes within the network may differ, and the bound holds at all of them.
        """
        bound = 1.0
        for layer in self.layers:
            bound = times(bound, _layer_bound(layer, norm))
        return outward(bound, 2 * len(self.layers))

    def magnitude_bound(self, magnitudes: Tensor) -> Tensor:
        """Layer by layer."""
        for layer in self.layers:
            magnitudes = magnitude_bound(layer, magnitudes)
        return magnitudes


def contractive(net: nn.Module, lipschitz: float = 0.97, norm: float = 2) -> nn.Module:
    """A network with the same parameters whose Lipschitz constant is certified to be at most a target.

    Every `nn.Linear` and `nn.Conv*d` of an `nn.Sequential`, nested ones included, becomes a `LipschitzLinear` or
    `LipschitzConv*d` that shares its weight and bias. With n of them, and a the product of the activations' constants
    (1.0998 for SiLU, 1 for ReLU), each gets the constant (lipschitz/a)^(1/n).

    Args:
        net: a sequence of linear layers, convolutions, activations and layers that only reshape; or a contractive
            network, which comes back as it is if its constant in this norm is within the target.
        lipschitz: the constant, in (0, 1) for a residual block.
        norm: 1, 2 or `math.inf`.

    Returns:
        A module with `lipschitz`, `norm`, `condition_features` and `lipschitz_bound()`.

    Raises:
        ConfigError: if a layer has no fixed constant: normalisations, dropout, learned slopes, unknown modules. The
            message names the layer and tells what to do.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 2))
        >>> g = contractive(net, lipschitz=0.9)
    """
    check_target("contractive", lipschitz, norm)
    if not is_sequence(net) and is_contractive(net):
        if net.norm == norm and float(net.lipschitz) <= lipschitz:  # pyright: ignore[reportArgumentType]
            return net
        raise ConfigError(
            f"contractive: expected a network of a constant of at most {lipschitz:g} in norm {norm}, got a "
            f"{type(net).__name__} of {net.lipschitz} in norm {net.norm}. Build it with these arguments."
        )
    layers = _flat(net, "")
    count, total = 0, 1.0
    for name, layer in layers:
        if type(layer) in REPLACED:
            _check_plain(name, layer)
            count += 1
        else:
            total *= _fixed(name, layer, norm)
    if count == 0 and total > lipschitz:
        raise ConfigError(
            f"contractive: expected layers to scale, nn.Linear or nn.Conv*d, got a {type(net).__name__} without any, "
            f"of constant {total:.3g}."
        )
    share = (lipschitz / total) ** (1 / max(1, count)) / outward(1.0, 4 * (count + 1)) if total else lipschitz
    made = [REPLACED[type(each)].of(each, share, norm) if type(each) in REPLACED else _own(each) for _, each in layers]
    return Contractive(made, lipschitz, norm)


def is_contractive(module: nn.Module) -> bool:
    """Whether a module says what constant it has, and in which norm."""
    return all(hasattr(module, name) for name in ("lipschitz", "norm", "lipschitz_bound"))


def _flat(net: nn.Module, prefix: str) -> list[tuple[str, nn.Module]]:
    """The layers of nested sequences with their names."""
    if not is_sequence(net):
        return [(prefix, net)]
    return [pair for name, child in net.named_children() for pair in _flat(child, f"{prefix}.{name}".lstrip("."))]


def _fixed(name: str, layer: nn.Module, norm: float) -> float:
    """The constant of a layer that is taken as it is."""
    if isinstance(layer, RESHAPING):
        return 1.0
    if is_contractive(layer) and layer.norm == norm:
        return float(layer.lipschitz)  # pyright: ignore[reportArgumentType]
    constant = constant_of(layer, norm)
    kind = next((reason for kinds, reason in REMEDIES if isinstance(layer, kinds)), None)
    if constant is not None and kind is None:
        return constant
    raise ConfigError(
        f"contractive: expected layers with a fixed Lipschitz constant in norm {norm}, got {type(layer).__name__} at "
        f"{name or 'the top'}: "
        + (kind or "its constant is not known. Give it a method lipschitz_bound() -> float and no parameters")
        + "."
    )


def _check_plain(name: str, layer: nn.Module) -> None:
    """Check that a layer's weight is its own parameter, and that nothing changes what it computes."""
    hooks = (layer._forward_pre_hooks, layer._forward_hooks)
    if not isinstance(vars(layer)["_parameters"].get("weight"), nn.Parameter) or any(hooks):
        raise ConfigError(
            f"contractive: expected {type(layer).__name__} at {name or 'the top'} without parametrisations and hooks, "
            "got one with them. Remove weight or spectral normalisation first; the layer is normalised anyway."
        )


def _own(layer: nn.Module) -> nn.Module:
    """The layer itself, or a copy that does not write into its input."""
    if not getattr(layer, "inplace", False):
        return layer
    layer = copy.copy(layer)
    vars(layer)["inplace"] = False
    return layer


def _layer_bound(layer: nn.Module, norm: float) -> float:
    if isinstance(layer, RESHAPING):
        return 1.0
    if is_contractive(layer):
        own: float = layer.lipschitz_bound(norm)  # pyright: ignore[reportCallIssue]
        return own
    constant = constant_of(layer, norm)
    return math.inf if constant is None else constant
