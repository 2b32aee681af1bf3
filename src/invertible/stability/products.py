"""Products of a batch of Jacobians with vectors, from the left and from the right, one Jacobian a sample.

Rows of a batch do not depend on each other, so one backward pass with a cotangent for the whole batch gives every
sample's product at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from invertible.errors import InvertibleError
from invertible.stability.batches import per_row
from invertible.stability.passage import Direction
from invertible.without_log_det import without_log_det

# What torch raises where an operation has no derivative in forward mode.
NO_FORWARD_MODE = (RuntimeError, NotImplementedError)


class NotDifferentiableError(InvertibleError):
    """Autograd does not reach the input of a map from its output."""


class Linearization:
    """The linear maps v -> J v and w -> J^T w of a batch, J the Jacobian of each sample's map at x.

    J v comes from forward-mode differentiation (a fresh evaluation of the map with dual numbers). Where an operation
    has no forward mode, it comes from the graph of w -> J^T w, which is linear in w and differentiated once more.

    Args:
        direction: the map, `(x, condition) -> (y, log_det)`, such as a bijection or its `inverse`.
        x: where, of shape (B, ...).
        condition: the condition, of B rows.

    Attributes:
        x: the point, (B, ...).
        y: the map's value there, (B, ...).
        log_det: its log-determinant, (B,).

    Raises:
        NotDifferentiableError: if autograd finds no way from y to x, as in an iteration that runs without grad.
    """

    def __init__(self, direction: Direction, x: Tensor, condition: Tensor | None = None) -> None:
        self._direction, self._condition = direction, condition
        self._x = x.detach().requires_grad_()
        with torch.enable_grad():
            self._y, log_det = direction(self._x, condition)
        if not self._y.requires_grad:
            raise NotDifferentiableError(
                "Linearization: expected a map that autograd can differentiate, got a constant."
            )
        self.x, self.y, self.log_det = self._x.detach(), self._y.detach(), log_det.detach()
        self._forward_mode = True
        self._transposed: tuple[Tensor, Tensor] | None = None

    def vjp(self, w: Tensor) -> Tensor:
        """J^T w of every sample: y's shape to x's shape."""
        return torch.autograd.grad(self._y, self._x, w, retain_graph=True)[0]

    def jvp(self, v: Tensor) -> Tensor:
        """J v of every sample: x's shape to y's shape."""
        if self._forward_mode:
            try:
                return self._dual(v)
            except NO_FORWARD_MODE:
                self._forward_mode = False
        return self._twice_backward(v)

    @torch.no_grad()
    def _dual(self, v: Tensor) -> Tensor:
        with forward_ad.dual_level(), without_log_det():
            y, _ = self._direction(forward_ad.make_dual(self.x, v), self._condition)
            tangent = forward_ad.unpack_dual(y).tangent
            if tangent is None:
                raise NotImplementedError("The map lost the tangent on its way.")
            return tangent.clone()

    def _twice_backward(self, v: Tensor) -> Tensor:
        if self._transposed is None:
            with torch.enable_grad():
                w = torch.zeros_like(self._y, requires_grad=True)
                image = torch.autograd.grad(self._y, self._x, w, retain_graph=True, create_graph=True)[0]
            self._transposed = w, image
        w, image = self._transposed
        return torch.autograd.grad(image, w, v, retain_graph=True)[0]


class SolvedInverse:
    """v -> J^-1 v and w -> J^-T w, by linear systems in J: for inverses that autograd cannot differentiate.

    Conjugate gradients on the normal equations need some cond(J) iterations and end at a relative error of
    cond(J)^2 eps: good for residual blocks, whose condition number is small, not for what explodes.

    Args:
        linearization: of the map f at x.
        tolerance: of the residual, relative.
        iterations: at most, for each product.

    Attributes:
        converged: samples all of whose systems were solved so far, boolean of shape (B,).
    """

    def __init__(self, linearization: Linearization, tolerance: float = 1e-8, iterations: int = 500) -> None:
        self._map, self._tolerance, self._iterations = linearization, tolerance, iterations
        self.converged = torch.ones(len(linearization.x), dtype=torch.bool, device=linearization.x.device)

    def jvp(self, v: Tensor) -> Tensor:
        """J^-1 v of every sample: y's shape to x's shape."""
        return self._solve(self._map.jvp, self._map.vjp, v, self._map.x)

    def vjp(self, w: Tensor) -> Tensor:
        """J^-T w of every sample: x's shape to y's shape."""
        return self._solve(self._map.vjp, self._map.jvp, w, self._map.y)

    def _solve(
        self, product: Callable[[Tensor], Tensor], transposed: Callable[[Tensor], Tensor], b: Tensor, like: Tensor
    ) -> Tensor:
        found, converged = least_squares(
            product, transposed, b, torch.zeros_like(like), self._tolerance, self._iterations
        )
        self.converged &= converged
        return found


def least_squares(
    product: Callable[[Tensor], Tensor],
    transposed: Callable[[Tensor], Tensor],
    b: Tensor,
    start: Tensor,
    tolerance: float,
    iterations: int,
) -> tuple[Tensor, Tensor]:
    """Solve A u = b for every sample of a batch by conjugate gradients on A^T A u = A^T b (Hestenes & Stiefel 1952).

    Args:
        product: u -> A u.
        transposed: w -> A^T w.
        b: right-hand sides, (B, ...).
        start: first guess, (B, ...).
        tolerance: stop at |A u - b| <= tolerance |b| in all samples.
        iterations: stop after as many.

    Returns:
        u, and the samples that met the tolerance, boolean of shape (B,).
    """
    u, residual = start, b - product(start)
    gradient = transposed(residual)
    search, size = gradient, dot(gradient, gradient)
    goal = tolerance * norm(b)
    for _ in range(iterations):
        if bool((norm(residual) <= goal).all()):
            break
        image = product(search)
        step = ratio(size, dot(image, image))
        u, residual = u + times(step, search), residual - times(step, image)
        gradient = transposed(residual)
        before, size = size, dot(gradient, gradient)
        search = gradient + times(ratio(size, before), search)
    return u, norm(residual) <= goal


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of samples: (B, ...) and (B, ...) to (B,)."""
    return (a * b).reshape(len(a), -1).sum(1)


def norm(a: Tensor) -> Tensor:
    """2-norms of samples: (B, ...) to (B,)."""
    return torch.linalg.vector_norm(a.reshape(len(a), -1), dim=1)


def times(factor: Tensor, a: Tensor) -> Tensor:
    """Each sample times a factor of its own: (B,) and (B, ...) to (B, ...)."""
    return per_row(factor, a) * a


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 where b is 0."""
    return torch.where(b != 0, a / torch.where(b != 0, b, 1), 0)
