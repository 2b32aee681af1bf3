"""Products of a batch of Jacobians with vectors, one Jacobian a sample, without the matrices."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

# What torch raises where an operation has no derivative in forward mode.
NO_FORWARD_MODE = (RuntimeError, NotImplementedError)


class Jacobian:
    """v -> J v, J the Jacobian of each sample's map at x.

    By forward-mode differentiation, an evaluation of the map with dual numbers. Where an operation has none, and
    within another forward-mode differentiation, since these do not nest: from the graph of w -> J^T w, which is linear
    in w and differentiated once more.

    Args:
        function: the map, (B, ...) to (B, ...), each sample by itself.
        x: where.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self._function, self._x = function, x.detach()
        self._forward_mode = forward_ad._current_level < 0
        self._transposed: tuple[Tensor, Tensor] | None = None

    def __call__(self, v: Tensor) -> Tensor:
        """J v, without a graph."""
        if self._forward_mode:
            try:
                return self._dual(v)
            except NO_FORWARD_MODE:
                self._forward_mode = False
        return self._twice_backward(v)

    @torch.no_grad()
    def _dual(self, v: Tensor) -> Tensor:
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(self._function(forward_ad.make_dual(self._x, v))).tangent
            return torch.zeros_like(v) if tangent is None else tangent.clone()

    @torch.enable_grad()
    def _twice_backward(self, v: Tensor) -> Tensor:
        if self._transposed is None:
            x = self._x.clone().requires_grad_()
            value = self._function(x)
            w = torch.zeros_like(value, requires_grad=True)
            image = None
            if value.requires_grad:
                image = torch.autograd.grad(value, x, w, create_graph=True, allow_unused=True)[0]
            self._transposed = w, torch.zeros_like(x) if image is None else image
        w, image = self._transposed
        if not image.requires_grad:
            return torch.zeros_like(v)
        found = torch.autograd.grad(image, w, v, retain_graph=True, allow_unused=True)[0]
        return torch.zeros_like(v) if found is None else found.detach()
