"""How large the outputs of a network can be on a box: interval arithmetic around zero, channel by channel."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from invertible.norms.activations import ACTIVATIONS, SOFTMAX, WITH_ARGUMENTS, largest_value
from invertible.norms.layers import in_use, known_as, statistics_scale
from invertible.norms.networks import is_sequence, lipschitz_bound
from invertible.norms.rounding import EPSILON

# What leaves every number where it is, gives it weight 1 at most, or mixes numbers of one channel by weights of sum 1.
_KEEPS = (
    *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d, nn.ReplicationPad1d, nn.ReplicationPad2d),
    *(nn.ReplicationPad3d, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d, nn.ZeroPad1d, nn.ZeroPad2d),
    *(nn.ZeroPad3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d),
    *(nn.AdaptiveMaxPool3d, nn.Upsample, nn.UpsamplingNearest2d),
)
_MIXES_CHANNELS = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_AFFINE = (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)
_NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def magnitude_bound(module: nn.Module, magnitudes: Tensor) -> Tensor:
    """Upper bounds of |net(x)_c| over all x with |x_c| <= magnitudes_c, at every position of every image size.

    Layer by layer |W h + b| <= |W| |h| + |b|; activations by their value at 0, their slope and their range. Unlike
    |net(0)| + Lip |x|_2 it knows no number of pixels. A module of one's own may define
    `magnitude_bound(magnitudes) -> Tensor`.

    Args:
        module: the network.
        magnitudes: per feature or channel of the input, shape (C,), or (1,) for all alike; may hold `math.inf`.

    Returns:
        Shape (C',), or (1,) for all alike, float64; infinite where nothing is known.
    """
    magnitudes = magnitudes.double().cpu()
    own = getattr(module, "magnitude_bound", None)
    with torch.no_grad():
        if callable(own):
            result: Any = own(magnitudes)
            return result.double().cpu()
        if is_sequence(module):
            for layer in module.children():
                magnitudes = magnitude_bound(layer, magnitudes)
            return magnitudes
        kind = known_as(module)
        if kind in _AFFINE:
            return _outward(_affine_layer(module, kind, magnitudes))
        slope = lipschitz_bound(module)
        # A layer without a Lipschitz constant now, such as dropout in training, may do more than is accounted for.
        if kind is None or not math.isfinite(slope):
            return _unknown()
        return _outward(_through(module, kind, slope, magnitudes))


def _affine_layer(module: Any, kind: type[nn.Module], magnitudes: Tensor) -> Tensor:  # noqa: ANN401
    if kind is nn.Linear:
        return _affine(in_use(module), module.bias, magnitudes)
    if kind in _CONVOLUTIONS:
        # (out, in/groups): what the channel's taps can do at most.
        weight = in_use(module).double().abs().flatten(2).sum(2)
        return _grouped(weight, module, magnitudes)
    weight = in_use(module).double().abs().flatten(2).sum(2).unflatten(0, (module.groups, -1)).mT.flatten(0, 1)
    return _grouped(weight, module, magnitudes)


def _through(module: Any, kind: type[nn.Module], slope: float, magnitudes: Tensor) -> Tensor:  # noqa: ANN401
    if kind in _NORMALISATIONS:
        return _normalised(module, magnitudes)
    if kind is nn.LayerNorm:
        return _layer_normalised(module)
    if any(kind in table for table in (ACTIVATIONS, SOFTMAX, WITH_ARGUMENTS)):
        return largest_value(module, kind, slope, magnitudes)
    if kind in _MIXES_CHANNELS:
        return magnitudes.max().reshape(1)
    is_dropout = issubclass(kind, nn.modules.dropout._DropoutNd)
    return magnitudes if kind in _KEEPS or is_dropout else _unknown()


def _affine(weight: Tensor, bias: Tensor | None, magnitudes: Tensor) -> Tensor:
    weight = weight.detach().double().cpu().abs()
    # 0 times infinity is 0: what has no weight has no say.
    terms = torch.where(weight > 0, weight * magnitudes, 0.0)
    return terms.sum(1) + (0.0 if bias is None else bias.detach().double().cpu().abs())


def _grouped(weight: Tensor, module: Any, magnitudes: Tensor) -> Tensor:  # noqa: ANN401
    groups, inputs = module.groups, module.in_channels
    parts = magnitudes.expand(inputs).reshape(groups, -1)
    biases = [None] * groups if module.bias is None else module.bias.reshape(groups, -1)
    rows = weight.reshape(groups, -1, inputs // groups)
    return torch.cat([_affine(w, b, m) for w, b, m in zip(rows, biases, parts, strict=True)])


def _normalised(module: Any, magnitudes: Tensor) -> Tensor:  # noqa: ANN401
    scale = statistics_scale(module)
    assert scale is not None
    shift = 0.0 if module.bias is None else module.bias.detach().double().cpu().abs()
    return (magnitudes + module.running_mean.double().cpu().abs()) * scale.abs() + shift


def _layer_normalised(module: nn.LayerNorm) -> Tensor:
    gain = 1.0 if module.weight is None else float(module.weight.detach().abs().max())
    shift = 0.0 if module.bias is None else float(module.bias.detach().abs().max())
    return torch.tensor([gain * math.sqrt(math.prod(module.normalized_shape)) + shift], dtype=torch.float64)


def _unknown() -> Tensor:
    return torch.tensor([math.inf], dtype=torch.float64)


def _outward(value: Tensor) -> Tensor:
    # Sums of up to a few thousand positive terms; NaN, of parameters that are not finite, is no bound.
    return (value * (1 + 4096 * EPSILON)).nan_to_num(nan=math.inf, posinf=math.inf)
