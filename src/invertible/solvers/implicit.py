"""Derivatives of the solution of y = x + g(x), by the implicit function theorem."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from invertible.errors import ConfigError, ShapeError
from invertible.shapes import full_precision
from invertible.solvers.attached import FIRST_ONLY, attach, depends_on_others
from invertible.solvers.linearised import Systems
from invertible.solvers.second_derivatives import first_only

# In units of eps, relative to the right-hand side; for ill-conditioned systems `gmres` has a floor of its own.
DEFAULT_TOLERANCE = 16


def implicit_solution(
    g: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    tolerance: float | None = None,
    owner: str = "implicit_solution",
) -> Tensor:
    r"""Attach first derivatives, of reverse and of forward mode, to a solution x of y = x + g(x).

    With J = dg/dx at x and theta all else on which g depends,

    $$dx = (I + J)^{-1} (dy - \partial_\theta g \, d\theta), \qquad
      \bar y = u, \quad \bar\theta = -(\partial_\theta g)^T u, \quad (I + J)^T u = \bar x .$$

    One evaluation of g with a graph serves the products J^T v and the gradient of theta alike; no iteration is stored
    or replayed. The linear systems are solved by GMRES to some eps, whatever the accuracy of x.

    g is evaluated without autocast, whose rounding no linear system would be solved to.
    Under no_grad, outside of a forward-mode differentiation, x comes back as it is, for nothing.

    Args:
        g: the function at the whole batch, (B, ...) to (B, ...), which closes over parameters and a condition with
            their graph or tangents; deterministic, each sample by itself.
        x: the solution, (B, ...), whose own graph is not used.
        y: the right-hand side, (B, ...), with its graph or tangent.
        tolerance: of the linear systems, relative to their right-hand sides; 16 eps if `None`.
        owner: first word of messages.

    Returns:
        The values of x. Where neither y nor g has a graph or a tangent, without one.

    Raises:
        ShapeError: if x and y are of different shapes.
        ConvergenceError: in the backward pass, or at once in forward mode, if a system is not solved, as where I + J
            is singular.
        SecondDerivativeError: when a derivative of a derivative is taken.

    Cost:
        One evaluation of g; a backward pass takes as many products J^T v as GMRES needs, some log(eps)/log(L).

    References:
        Bai, Kolter & Koltun (2019), Deep equilibrium models, theorem 1; Behrmann et al. (2019), section 3.

    Example:
        >>> y = torch.randn(8, 3, requires_grad=True)
        >>> found = solve_residual(lambda x, rows: 0.5 * torch.sin(x), y)
        >>> implicit_solution(lambda x: 0.5 * torch.sin(x), found.x, y).sum().backward()
    """
    if x.shape != y.shape:
        raise ShapeError(f"{owner}: expected x of y's shape {tuple(y.shape)}, got {tuple(x.shape)}.")
    x = x.detach()
    if not torch.is_grad_enabled() and forward_ad._current_level < 0:
        return x
    if torch._C._are_functorch_transforms_active():
        raise ConfigError(
            f"{owner}: a solution has no derivatives under torch.func transforms. Use torch.autograd.grad, or "
            "torch.autograd.forward_ad for forward mode."
        )
    accuracy = DEFAULT_TOLERANCE * torch.finfo(x.dtype).eps if tolerance is None else tolerance
    with full_precision(y):
        return _attached(g, x, y, accuracy, owner)


def _attached(g: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, accuracy: float, owner: str) -> Tensor:
    reverse = torch.is_grad_enabled()
    point = x.clone().requires_grad_(reverse)
    value = g(point).to(x.dtype)
    # What is left of the residual, zero but for rounding: it carries the derivatives, x the values.
    residual, tangent = forward_ad.unpack_dual(value + (x - y))
    systems = Systems(g, point, value, accuracy, owner)
    solution = x
    if reverse and (y.requires_grad or depends_on_others(value, point)):
        solution = attach(residual, x, systems, moving=tangent is not None)
    if tangent is None:
        return solution
    motion = systems.solve(-tangent)
    return forward_ad.make_dual(solution, first_only(motion, FIRST_ONLY) if solution.requires_grad else motion)
