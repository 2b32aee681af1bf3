"""How rounding in every operation of a map moves its result, by the adjoints that a backward pass brings."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Operations that move, select or negate numbers and round none.
_NAMES = """
    __get__ __getitem__ __neg__ abs broadcast_to cat chunk clamp clone concat contiguous detach expand expand_as
    flatten flip gather index_select masked_select max maximum min minimum movedim narrow neg pad permute
    pixel_shuffle pixel_unshuffle relu relu_ repeat repeat_interleave reshape roll select sort split squeeze stack
    swapaxes t take transpose unbind unflatten unsqueeze view view_as where
"""
EXACT = frozenset(_NAMES.split())


class Roundings(TorchFunctionMode):
    """Watch a map being evaluated, and add up the effect of the roundings of all its operations.

    Each operation's result v is rounded: every number is off by some u |v|, u = eps/2 of v's dtype, independently of
    the others. To first order the map's result x then moves along a direction w by <a, delta>, where a = (dx/dv)^T w
    is the adjoint of v, which a backward pass computes anyway. The variance of that movement is
    u^2 sum_v sum_i a_i^2 v_i^2, the sum over all operations: Linnainmaa's (1976) accumulation of rounding
    errors by adjoints, with rounding taken as random (Hull & Swenson 1966).

    Not seen: operations whose result has no batch axis in front (what a boolean mask selects), what runs within a
    custom `autograd.Function`, and the rounding of the parameters themselves.

    Args:
        samples: size of the batch, B.

    Attributes:
        cut: whether a part of the map ran without grad, so that adjoints do not reach what came before it.
    """

    def __init__(self, samples: int) -> None:
        super().__init__()
        self._samples, self.cut = samples, False
        self._found: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401
        """Evaluate the operation and watch its result."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            if result.requires_grad:
                if func.__name__ not in EXACT:
                    self.watch(result)
            elif not torch.is_grad_enabled() and self._is_batch(result):
                self.cut |= any(isinstance(each, Tensor) and each.requires_grad for each in args)
        elif func.__name__ == "__setitem__" and args[0].requires_grad:
            self.watch(args[0])
        return result

    def watch(self, v: Tensor) -> None:
        """Count v's rounding in every backward pass from now on."""
        if not self._is_batch(v):
            return
        value, unit, axes = v.detach(), torch.finfo(v.dtype).eps / 2, tuple(range(1, v.dim()))
        # The adjoints of an exploding inverse leave the range of float16.
        wide = torch.promote_types(v.dtype, torch.float32)

        def add(adjoint: Tensor) -> None:
            self._found.append(unit * torch.linalg.vector_norm(adjoint.to(wide) * value, dim=axes))

        v.register_hook(add)

    def variance(self) -> Tensor:
        """The sum since it was last asked for, float64 of shape (B,) on the CPU."""
        found = torch.zeros(self._samples, dtype=torch.float64)
        if self._found:
            found = torch.stack([each.double() for each in self._found]).square().sum(0).cpu()
        self._found.clear()
        return found

    def _is_batch(self, v: Tensor) -> bool:
        return v.dim() > 1 and len(v) == self._samples and v.is_floating_point()
