"""Linear systems in I + J and its transpose, J the Jacobian of g at a solution of y = x + g(x)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from invertible.errors import ConvergenceError
from invertible.shapes import finite_rows
from invertible.solvers.krylov import Product, gmres


class Systems:
    """v -> (I + J)^-1 v and w -> (I + J)^-T w, every sample by itself.

    Args:
        g: the map, (B, ...) to (B, ...).
        point: where, (B, ...); requires grad if transposed systems are to be solved.
        value: g(point), with its graph, or its tangent from all else on which g depends.
        tolerance: relative to the right-hand sides.
        owner: first word of messages.
    """

    def __init__(
        self, g: Callable[[Tensor], Tensor], point: Tensor, value: Tensor, tolerance: float, owner: str
    ) -> None:
        self._g, self._point, self._tolerance, self._owner = g, point, tolerance, owner
        self._value, self._drift = forward_ad.unpack_dual(value)

    def solve(self, right: Tensor) -> Tensor:
        """(I + J)^-1 right; only within a forward-mode differentiation."""
        return self._solve(lambda v: v + self._moved(v), right)

    def solve_transposed(self, right: Tensor) -> Tensor:
        """(I + J)^-T right."""
        return self._solve(lambda w: w + self._pulled(w), right)

    def _moved(self, v: Tensor) -> Tensor:
        # Levels of forward mode do not nest: in the present one, g moves with x and with all else, which is known.
        tangent = forward_ad.unpack_dual(self._g(forward_ad.make_dual(self._point.detach(), v))).tangent
        if tangent is None:
            return torch.zeros_like(v)
        return (tangent if self._drift is None else tangent - self._drift).to(v.dtype)

    def _pulled(self, w: Tensor) -> Tensor:
        if not self._value.requires_grad:
            return torch.zeros_like(w)
        found = torch.autograd.grad(self._value, self._point, w, retain_graph=True, allow_unused=True)[0]
        return torch.zeros_like(w) if found is None else found

    def _solve(self, product: Product, right: Tensor) -> Tensor:
        # What is not finite stays so, in its sample: a loss scaler looks for it.
        finite = finite_rows(right).reshape(len(right), *[1] * (right.dim() - 1))
        found = gmres(product, torch.where(finite, right.detach(), 0), tolerance=self._tolerance)
        if bool(found.converged.all()):
            return torch.where(finite, found.x, torch.nan)
        residual = torch.where(found.converged, 0, found.residual)
        sample = int(residual.argmax())
        worst = float(residual[sample])
        raise ConvergenceError(
            f"{self._owner}: expected the derivative of the solution of y = x + g(x) to a relative residual of "
            f"{self._tolerance:.2g}, got {worst:.2g} in sample {sample} after {found.products} products with the "
            "Jacobian. I + dg/dx is close to singular there, or g is not differentiable: make g a contraction, or "
            "raise the tolerance.",
            iterations=found.products,
            residual=worst,
        )
