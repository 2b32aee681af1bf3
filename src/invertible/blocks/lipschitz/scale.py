"""By what a weight is scaled so that its certified norm is at most a target, kept for as long as the weight stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._C._functorch import (  # pyright: ignore[reportMissingImports]
    get_unwrapped,
    is_batchedtensor,
    is_gradtrackingtensor,
)

from invertible.blocks.lipschitz.cache import WeightCache
from invertible.blocks.lipschitz.certificate import Certificate
from invertible.errors import ConfigError, DomainError
from invertible.shapes import at_least_float32


@dataclass(frozen=True)
class ScaledWeight:
    """What is kept of a weight: its scale, the scale's derivative, and the product.

    Attributes:
        scale: min(1, target/bound).
        slope: of the norm, see `Certificate`; nothing where the scale is 1.
        product: weight times scale, in the weight's dtype.
    """

    scale: float
    slope: Tensor
    product: Tensor


def keep(
    weight: Tensor,
    target: float,
    certify: Callable[[Tensor], Certificate],
    cache: WeightCache,
    used_in: torch.dtype,
    key: tuple[int, ...],
) -> ScaledWeight:
    """The scale, slope and product for a weight, from the cache if they are there."""
    plain = _plain(weight)

    def compute() -> ScaledWeight:
        wide = at_least_float32(plain.detach())
        certificate = certify(wide)
        bound = certificate.bound + relative_rounding(wide, used_in) * certificate.spread
        if bound <= target:
            return ScaledWeight(1.0, wide.new_zeros(()), wide.new_zeros(()))
        scale = target / bound
        if scale < torch.finfo(wide.dtype).tiny:
            raise DomainError(
                f"LipschitzLayer: expected a weight with a norm that {wide.dtype} can divide by, got one of "
                f"{bound:.3g}. A training step has diverged: lower the learning rate, clip gradients, or load an "
                "earlier state."
            )
        return ScaledWeight(scale, certificate.slope, (wide * scale).to(plain.dtype))

    return cache.get(plain, (used_in, target, *key), compute)


def relative_rounding(weight: Tensor, used_in: torch.dtype) -> float:
    """By what part of itself an entry of the scaled weight may be off: the scale, the product, and the dtype in use.

    In double precision it is that of single precision, so that a copy in double precision is the same map.
    """
    eps = torch.finfo(torch.float32).eps
    return 1.01 * (eps + (torch.finfo(used_in).eps / 2 if used_in != weight.dtype else 0.0))


def _plain(weight: Tensor) -> Tensor:
    """The weight below the gradient transformations of `torch.func`, whose numbers it shares."""
    while is_gradtrackingtensor(weight):
        weight = get_unwrapped(weight)
    if is_batchedtensor(weight):
        raise ConfigError(
            "LipschitzLayer: expected one weight, got a batch of weights under torch.func.vmap, whose norms cannot be "
            "certified there. Call the network once for each of its states."
        )
    return weight
