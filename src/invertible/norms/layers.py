"""Lipschitz constants of torch's layers, by their class."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from invertible.norms.activations import ACTIVATIONS, SOFTMAX, WITH_ARGUMENTS
from invertible.norms.convolutions import convolution_norm, padding_factor
from invertible.norms.matrices import matrix_norm
from invertible.norms.pooling import POOLS
from invertible.norms.rounding import outward

Rule = Callable[[Any], float]


def in_use(layer: nn.Module) -> Tensor:
    """The weight that the next call computes with.

    The hooks of `torch.nn.utils.spectral_norm` and `weight_norm` set it only then, so that the attribute may be that of
    earlier parameters. Parametrisations compute it at every access.
    """
    for hook in layer._forward_pre_hooks.values():
        compute = getattr(hook, "compute_weight", None)
        if compute is not None and getattr(hook, "name", "") == "weight":
            power = {"do_power_iteration": False} if hasattr(hook, "n_power_iterations") else {}
            return compute(layer, **power)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _linear(layer: nn.Linear) -> float:
    return matrix_norm(in_use(layer))


def _convolution(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> float:
    ends = pads(layer)
    before, after = ends[::2], ends[1::2]
    factor, stride = padding_factor(layer.padding_mode, before, after), layer.stride
    if layer.padding_mode == "circular":
        sums = [a + b for a, b in zip(before, after, strict=True)]
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        # Rows of the circulant matrix, none twice; of another size than a multiple of the stride, it has no phases.
        factor = 1.0 if all(a <= b for a, b in zip(sums, reach, strict=True)) else factor
        stride = 1
    return outward(factor * convolution_norm(in_use(layer), stride, layer.dilation, layer.groups))


def pads(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[int]:
    """Pixels added before and behind every axis, (before, after, before, after, ...)."""
    if layer.padding == "valid":
        return [0] * (2 * len(layer.kernel_size))
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [end for total in totals for end in (total // 2, total - total // 2)]
    return [int(size) for size in layer.padding for _ in range(2)]


def _transposed(layer: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) -> float:
    # The adjoint of a strided convolution with this very weight; padding crops its output.
    return convolution_norm(in_use(layer), layer.stride, layer.dilation, layer.groups)


def statistics_scale(layer: Any) -> Tensor | None:  # noqa: ANN401
    """gamma/sqrt(v + eps) of a normalisation by running statistics, (C,); `None` in training or without them."""
    if layer.training or layer.running_var is None:
        return None
    deviation = (layer.running_var.double().cpu() + layer.eps).sqrt()
    return (1.0 if layer.weight is None else layer.weight.detach().double().cpu()) / deviation


def _by_statistics(layer: Any) -> float:  # noqa: ANN401
    scale = statistics_scale(layer)
    return math.inf if scale is None else outward(float(scale.abs().max()))


def _by_itself(layer: Any) -> float:  # noqa: ANN401
    """max |gamma|/sqrt(eps): the Jacobian of (x - m)/s is (1 - 11^T/n - x^ x^^T/n)/s, of norm 1/s, s >= sqrt(eps)."""
    if layer.eps is None or layer.eps <= 0:
        return math.inf
    gain = 1.0 if layer.weight is None else float(layer.weight.detach().double().abs().max())
    return outward(gain / math.sqrt(layer.eps))


def _instance(layer: Any) -> float:  # noqa: ANN401
    own = layer.running_mean is None or layer.training
    return _by_itself(layer) if own else _by_statistics(layer)


def _identity_in_eval(layer: nn.Module) -> float:
    return math.inf if layer.training else 1.0


def _isometry(_: nn.Module) -> float:
    return 1.0


def _padding(mode: str) -> Rule:
    def rule(layer: Any) -> float:  # noqa: ANN401
        ends: Sequence[int] = layer.padding
        return padding_factor(mode, ends[::2], ends[1::2])

    return rule


def _upsample(layer: nn.Upsample) -> float:
    """Nearest neighbours show a pixel as often as the image grows, rounded up; other modes are not known."""
    factor = layer.scale_factor
    if layer.mode != "nearest" or factor is None:
        return math.inf
    # One number holds for all axes, of which there are three at most.
    axes = 2 if isinstance(layer, nn.UpsamplingNearest2d) else 3
    factors = factor if isinstance(factor, tuple) else (factor,) * axes
    return outward(math.sqrt(math.prod(math.ceil(each) for each in factors)))


def _constant(value: float) -> Rule:
    return lambda _: value


RULES: dict[type[nn.Module], Rule] = {
    **{kind: _constant(value) for kind, value in (ACTIVATIONS | SOFTMAX).items()},
    **WITH_ARGUMENTS,
    **POOLS,
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _transposed),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _by_statistics),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _instance),
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), _by_itself),
    **dict.fromkeys(
        (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
        _identity_in_eval,
    ),
    **dict.fromkeys((nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle), _isometry),
    **dict.fromkeys(
        (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), _isometry
    ),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d), _padding("reflect")),
    **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d), _padding("replicate")),
    **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d), _padding("circular")),
    nn.Upsample: _upsample,
    nn.UpsamplingNearest2d: _upsample,
}


def known_as(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch whose forward the module has, if there is a rule for it."""
    if "forward" in module.__dict__:
        return None
    return next((kind for kind in type(module).__mro__ if kind in RULES and type(module).forward is kind.forward), None)


def layer_norm(module: nn.Module) -> float | None:
    """Upper bound of a layer's Lipschitz constant, `math.inf` where it has none, `None` if there is no rule for it."""
    kind = known_as(module)
    if kind is None:
        return None
    if any(nn.parameter.is_lazy(tensor) for tensor in (*module.parameters(False), *module.buffers(False))):
        return math.inf
    with torch.no_grad():
        return RULES[kind](module)
