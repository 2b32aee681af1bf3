"""Certified upper bounds of the Lipschitz constants of ordinary networks, in the 2-norm.

Power iteration estimates a norm from below; nothing here uses it. Norms of matrices come from a float64 SVD.
"""

import math

import torch
from torch import Tensor, nn

# sup |phi'|, which for these scalar functions is their Lipschitz constant. GELU and SiLU (Swish) rounded upwards.
ACTIVATIONS: dict[type[nn.Module], float] = {
    nn.Identity: 1.0,
    nn.ReLU: 1.0,
    nn.Tanh: 1.0,
    nn.Softplus: 1.0,
    nn.Sigmoid: 0.25,
    nn.GELU: 1.13,
    nn.SiLU: 1.1,
    nn.Dropout: math.inf,
}


def matrix_norm(weight: Tensor) -> float:
    """Largest singular value of a matrix, by a float64 SVD."""
    return float(torch.linalg.matrix_norm(weight.detach().double(), 2))


def convolution_norm(weight: Tensor) -> float:
    """Upper bound of the operator norm of a stride-1 or strided convolution with zero padding, at any image size.

    The convolution is the sum over kernel taps of a shift (norm at most 1) times the tap's channel matrix, so that
    ||K * x|| <= sum_taps ||K[:, :, tap]||_2 ||x||. Exact for 1 x 1 kernels.

    Args:
        weight: shape (out_channels, in_channels, *kernel).
    """
    taps = weight.detach().double().flatten(2).permute(2, 0, 1)
    return float(torch.linalg.matrix_norm(taps, 2).sum())


def lipschitz_bound(module: nn.Module) -> float:
    """Upper bound of a network's Lipschitz constant: the product of its layers' norms.

    Knows linear layers, convolutions (groups of 1), the activations of `ACTIVATIONS`, `nn.Sequential`, and any module
    with a method `lipschitz_bound() -> float`.

    Returns:
        The bound, `math.inf` if a layer is not known.
    """
    own = getattr(module, "lipschitz_bound", None)
    if callable(own):
        return float(own())  # pyright: ignore[reportArgumentType]
    if isinstance(module, nn.Sequential):
        return math.prod(lipschitz_bound(layer) for layer in module)
    if isinstance(module, nn.Linear):
        return matrix_norm(module.weight)
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        plain = module.groups == 1 and module.padding_mode == "zeros"
        return convolution_norm(module.weight) if plain else math.inf
    if isinstance(module, (nn.LeakyReLU, nn.ELU)):
        slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else module.alpha
        return max(1.0, abs(slope))
    return ACTIVATIONS.get(type(module), math.inf)
