"""Lipschitz constants of scalar functions, and how large their values can be."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

# sup |phi'|, which for these functions of one number is their Lipschitz constant; irrational ones rounded upwards.
# GELU's is at sqrt(2), Phi(sqrt(2)) + sqrt(2) phi(sqrt(2)) = 1.12890; its tanh form reaches 1.12899.
ACTIVATIONS: dict[type[nn.Module], float] = {
    nn.Identity: 1.0,
    nn.ReLU: 1.0,
    nn.ReLU6: 1.0,
    nn.Tanh: 1.0,
    nn.Tanhshrink: 1.0,
    nn.Softshrink: 1.0,
    nn.Softsign: 1.0,
    nn.Hardtanh: 1.0,
    nn.LogSigmoid: 1.0,
    nn.Sigmoid: 0.25,
    nn.Hardsigmoid: 0.1666667,
    nn.Hardswish: 1.5,
    nn.GELU: 1.12906,
    nn.SiLU: 1.09984,
    nn.Mish: 1.08850,
    nn.SELU: 1.75810,
}
# Of a vector: the Jacobian diag(p) - p p^T has row sums of at most 2 p (1 - p) <= 1/2 in absolute value.
SOFTMAX: dict[type[nn.Module], float] = {nn.Softmax: 0.5, nn.Softmax2d: 0.5, nn.Softmin: 0.5}


def _softplus(module: nn.Module) -> float:
    assert isinstance(module, nn.Softplus)
    # Beyond the threshold torch takes the line x, a jump of e^-threshold/beta: below rounding from 20 on, which is the
    # default; an early one makes the function discontinuous.
    return 1.0 if module.threshold >= 20 else math.inf


def _celu(module: nn.Module) -> float:
    assert isinstance(module, nn.CELU)
    return 1.0 if module.alpha > 0 else math.inf


def _prelu(module: nn.Module) -> float:
    assert isinstance(module, nn.PReLU)
    return max(1.0, float(module.weight.detach().abs().max()))


def _rrelu(module: nn.Module) -> float:
    assert isinstance(module, nn.RReLU)
    return math.inf if module.training else max(1.0, abs(module.lower + module.upper) / 2)


def _slope(module: nn.Module) -> float:
    assert isinstance(module, nn.LeakyReLU | nn.ELU)
    return max(1.0, abs(module.negative_slope if isinstance(module, nn.LeakyReLU) else module.alpha))


# Those whose constant depends on their arguments.
WITH_ARGUMENTS: dict[type[nn.Module], Callable[[nn.Module], float]] = {
    nn.LeakyReLU: _slope,
    nn.ELU: _slope,
    nn.CELU: _celu,
    nn.PReLU: _prelu,
    nn.RReLU: _rrelu,
    nn.Softplus: _softplus,
}

# sup |phi| where it is finite.
_LARGEST: dict[type[nn.Module], float] = {
    nn.Tanh: 1.0,
    nn.Sigmoid: 1.0,
    nn.Hardsigmoid: 1.0,
    nn.Softsign: 1.0,
    nn.ReLU6: 6.0,
    **dict.fromkeys(SOFTMAX, 1.0),
}


def largest_value(module: nn.Module, kind: type[nn.Module], slope: float, magnitudes: Tensor) -> Tensor:
    """Upper bound of |phi(h)| for |h| <= magnitudes: |phi(0)| + slope |h|, and sup |phi|.

    Args:
        module: the activation.
        kind: its class, or the one that its forward is inherited from.
        slope: its Lipschitz constant.
        magnitudes: of its input, per channel or of shape (1,).
    """
    if isinstance(module, nn.Hardtanh) and kind is nn.Hardtanh:
        ceiling = float(max(abs(module.min_val), abs(module.max_val)))
    else:
        ceiling = _LARGEST.get(kind, math.inf)
    at_zero = {nn.Sigmoid: 0.5, nn.Hardsigmoid: 0.5, nn.LogSigmoid: math.log(2), nn.Hardtanh: ceiling}.get(kind, 0.0)
    if isinstance(module, nn.Softplus):
        at_zero = math.log(2) / abs(module.beta) if module.beta else math.inf
    if kind in SOFTMAX:
        at_zero = 1.0
    return torch.clamp(slope * magnitudes + at_zero, max=ceiling)
