"""The 1- and the infinity-norm of matrices and convolutions: sums of absolute values."""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from invertible.blocks.lipschitz.certificate import Certificate, sum_certificate
from invertible.blocks.lipschitz.torus import Geometry
from invertible.norms import outward


def matrix_sums(owner: str, weight: Tensor, norm: float) -> Certificate:
    """Of a matrix: its largest column sum for norm 1, its largest row sum for norm infinity."""
    axis = 0 if norm == 1 else 1
    sums = weight.double().abs().sum(axis, keepdim=True)
    return sum_certificate(owner, weight, sums, _first_largest(sums).expand_as(weight))


def convolution_sums(owner: str, weight: Tensor, norm: float, geometry: Geometry, groups: int) -> Certificate:
    """Of a convolution: over inputs and taps of an output for infinity, over outputs and taps of an input for 1.

    Of the taps of one input those count that reach one phase of the stride. Padding that repeats pixels multiplies the
    sum of an input by how often it is repeated; circular padding within the kernel's reach repeats none.

    Args:
        owner: of the weight, for messages.
        weight: shape (out, in/groups, *kernel).
        norm: 1 or `math.inf`.
        geometry: stride, dilation and padding.
        groups: number of blocks of channels that do not see each other.
    """
    if norm != 1:
        found = matrix_sums(owner, weight.flatten(1), norm)
        return replace(found, slope=found.slope.view(weight.shape))
    # Around a torus whose size is no multiple of the stride an input meets the taps of several phases.
    strides = (1,) * len(geometry.stride) if geometry.mode == "circular" else geometry.stride
    phase = torch.zeros(1, dtype=torch.long)
    for kernel, dilation, stride in zip(geometry.kernel, geometry.dilation, strides, strict=True):
        phase = (phase[:, None] * stride + torch.arange(kernel) * dilation % stride).flatten()
    member = functional.one_hot(phase, math.prod(strides)).double().to(weight.device)
    grouped = weight.double().abs().flatten(2).unflatten(0, (groups, -1))
    # (g, in, phases)
    sums = grouped.sum(1) @ member
    chosen = (_first_largest(sums) @ member.mT)[:, None].expand_as(grouped)
    found = sum_certificate(owner, weight, sums, chosen.reshape(weight.shape))
    bound = outward(found.bound * geometry.padding_norm() ** 2, 4)
    return Certificate(bound, found.slope, bound)


def _first_largest(sums: Tensor) -> Tensor:
    """Indicator of the first largest entry."""
    chosen = torch.zeros_like(sums).flatten()
    if sums.numel():
        chosen[sums.argmax()] = 1.0
    return chosen.view(sums.shape)
