"""A weight scaled so that its certified norm is at most a target."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor  # pyright: ignore[reportMissingImports]
from torch.autograd import forward_ad

from invertible.blocks.lipschitz.cache import WeightCache
from invertible.blocks.lipschitz.certificate import Certificate
from invertible.blocks.lipschitz.scale import ScaledWeight, keep
from invertible.shapes import at_least_float32, full_precision


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
        kept = _keeper()(weight, target, certify, cache, used_in, key)
        if kept.scale == 1.0:
            return weight
        if not _differentiated(weight):
            return kept.product
        wide = at_least_float32(weight)
        ratio = (kept.slope * wide).sum()
        # The quotient is 1, exactly; it carries the derivatives.
        return (wide * (kept.scale / (ratio / ratio.detach()))).to(weight.dtype)


def _keeper() -> Callable[..., ScaledWeight]:
    if torch.compiler.is_compiling():
        # Imported only now: it loads the compiler, which takes longer than all else.
        from invertible.blocks.lipschitz.uncompiled import keep_uncompiled

        return keep_uncompiled
    return keep


def _used_in(weight: Tensor) -> torch.dtype:
    """The dtype in which a product with the weight is taken."""
    kind = weight.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return weight.dtype


def _differentiated(weight: Tensor) -> bool:
    if is_functorch_wrapped_tensor(weight) or (torch.is_grad_enabled() and weight.requires_grad):
        return True
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(weight).tangent is not None
