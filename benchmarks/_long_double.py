"""Affine and additive couplings in the 80-bit floating point of NumPy: the truth about float64, to 19 digits."""

from collections.abc import Callable

import numpy as np
import torch

import invertible as inv
from invertible.blocks import scale as scales

Array = np.ndarray
AVAILABLE = bool(np.finfo(np.longdouble).eps < 1e-18)


def _sigmoid(r: Array) -> Array:
    return 1 / (1 + np.exp(-r))


def _functions(scale: scales.Scale) -> Callable[[Array], Array]:
    """The scale function g; its constants are those that the float64 code rounds to float64."""
    limit = np.longdouble(getattr(scale, "limit", 0.0))
    return {
        scales.Exp: np.exp,
        scales.Sigmoid: lambda r: _sigmoid(r + 2),
        scales.HalfSigmoid: lambda r: (1 + _sigmoid(r + 2)) / 2,
        scales.SigmoidEpsilon: lambda r: _sigmoid(r + 2) + np.longdouble(1e-3),
        scales.TanhExp: lambda r: np.exp(limit * np.tanh(r / limit)),
        scales.SoftClamp: lambda r: np.exp(2 * limit / np.longdouble(np.pi) * np.arctan(r / limit)),
        scales.SymmetricSigmoid: lambda r: 1 + np.longdouble(0.9) * np.tanh(r / 2),
    }[type(scale)]


def _net(net: torch.nn.Module, h: Array) -> Array:
    layers = [*net.layers, net.last]
    for layer in layers:
        weight, bias = (p.detach().numpy().astype(np.longdouble) for p in (layer.weight, layer.bias))
        h = h @ weight.T + bias
        h = h if layer is layers[-1] else np.maximum(h, 0)
    return h


def inverse(chain: inv.Chain, y: torch.Tensor) -> Array:
    """f^-1(y) for a chain of couplings of vectors, parameters in float64."""
    x = y.numpy().astype(np.longdouble)
    for block in reversed(list(chain)):
        first, second = (part[0].long().numpy() for part in block.cut.split(torch.arange(x.shape[1])[None].double()))
        passive, active = (second, first) if block.flip else (first, second)
        parameters = _net(block.net, x[:, passive])
        undone = x.copy()
        if isinstance(block, inv.AdditiveCoupling):
            undone[:, active] = x[:, active] - parameters
        else:
            raw, shift = np.split(parameters, 2, 1)
            g = _functions(block.elementwise.scale)(raw)
            glow = block.elementwise.order == "glow"
            undone[:, active] = x[:, active] / g - shift if glow else (x[:, active] - shift) / g
        x = undone
    return x
