"""A weight scaled so that its certified norm is at most a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch._C._functorch import (  # pyright: ignore[reportMissingImports]
    get_unwrapped,
    is_batchedtensor,
    is_functorch_wrapped_tensor,
    is_gradtrackingtensor,
)
from torch.autograd import forward_ad

from invertible.blocks.lipschitz.cache import WeightCache
from invertible.blocks.lipschitz.certificate import Certificate
from invertible.errors import ConfigError, DomainError
from invertible.shapes import at_least_float32, full_precision


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


def scaled_weight(
    weight: Tensor,
    target: float,
    certify: Callable[[Tensor], Certificate],
    *,
    cache: WeightCache,
    key: tuple[int, ...],
) -> Tensor:
    """W min(1, target/|W|), with a norm that is certified from above; differentiable, values the same without grad.

    The numbers that come out, rounded to the dtype they are used in, have a norm of at most the target. The scale's
    derivative is that of target/<slope, W>, with the slope held constant.

    Args:
        weight: of any floating-point dtype.
        target: positive.
        certify: bounds the norm of a weight in float32 or float64.
        cache: what was computed before.
        key: what else `certify` depends on.

    Raises:
        ConfigError: for a batch of weights under `torch.func.vmap`.
        DomainError: if the norm is so large that the scale is not a normal number of the weight's dtype.
    """
    if weight.is_meta:
        return weight
    used_in = _used_in(weight)
    with full_precision(weight):
        keep = _kept_uncompiled if torch.compiler.is_compiling() else _kept
        kept = keep(weight, target, certify, cache, used_in, key)
        if kept.scale == 1.0:
            return weight
        if not _differentiated(weight):
            return kept.product
        wide = at_least_float32(weight)
        ratio = (kept.slope * wide).sum()
        # The quotient is 1, exactly; it carries the derivatives.
        return (wide * (kept.scale / (ratio / ratio.detach()))).to(weight.dtype)


def _kept(
    weight: Tensor,
    target: float,
    certify: Callable[[Tensor], Certificate],
    cache: WeightCache,
    used_in: torch.dtype,
    key: tuple[int, ...],
) -> ScaledWeight:
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


# The graph breaks here: what to compute depends on the numbers.
_kept_uncompiled = cast(Callable[..., ScaledWeight], torch.compiler.disable(_kept))


def relative_rounding(weight: Tensor, used_in: torch.dtype) -> float:
    """By what part of itself an entry of the scaled weight may be off: the scale, the product, and the dtype in use.

    In double precision it is that of single precision, so that a copy in double precision is the same map.
    """
    eps = torch.finfo(torch.float32).eps
    return 1.01 * (eps + (torch.finfo(used_in).eps / 2 if used_in != weight.dtype else 0.0))


def _used_in(weight: Tensor) -> torch.dtype:
    """The dtype in which a product with the weight is taken."""
    kind = weight.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return weight.dtype


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


def _differentiated(weight: Tensor) -> bool:
    if is_functorch_wrapped_tensor(weight) or (torch.is_grad_enabled() and weight.requires_grad):
        return True
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(weight).tangent is not None
