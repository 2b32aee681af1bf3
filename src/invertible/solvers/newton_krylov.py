"""Newton's method for y = x + g(x) where plain and accelerated iterations stall."""

import torch
from torch import Tensor

from invertible.solvers.equation import Equation, Values
from invertible.solvers.jacobian import Jacobian
from invertible.solvers.krylov import gmres

# Of Eisenstat & Walker (1996), choice 2: eta = GAMMA (|F| / |F before|)^2, at most LARGEST, with their safeguard.
GAMMA, LARGEST = 0.9, 0.1
# Dimensions of the Krylov space: below, a linear g is solved in one cycle.
RESTART = 100
HALVINGS = 12
ENOUGH = 0.5
# Sufficient decrease: |F(x + s d)| <= (1 - DECREASE s) |F(x)|.
DECREASE = 1e-4


def newton_krylov(equation: Equation, x: Tensor, rows: Tensor, max_evaluations: int) -> tuple[Tensor, Values]:
    """Solve some samples by Newton's method with GMRES and a line search on the true residual.

    x <- x + s d with (I + J_g(x)) d = y - x - g(x) solved to a relative residual eta (Eisenstat & Walker 1996), and s
    the largest of 1, 1/2, 1/4, ... that lowers the residual. It needs I + J to be regular along the way, not g to be
    a contraction. The order of convergence is up to 2.

    Args:
        equation: what to solve.
        x: where to begin, (n, D).
        rows: indices of the samples, (n,).
        max_evaluations: of g, per sample, as the equation counts them.

    Returns:
        The points of smallest residual, and the values there. A sample is left where no step lowers its residual.
    """
    x, values = x.clone(), equation.at(x, rows)
    equation.require_finite(values, rows)
    eta = torch.full_like(values.residual, LARGEST)
    stuck = torch.zeros_like(rows, dtype=torch.bool)
    while True:
        open_ = ~equation.solved(values) & ~stuck & (equation.evaluations[rows] < max_evaluations)
        if not bool(open_.any()):
            return x, values
        index = open_.nonzero()[:, 0]
        budget = max_evaluations - int(equation.evaluations[rows[index]].max())
        here = values[index]
        # No more digits than the goal asks for.
        needed = ENOUGH * equation.tolerance * here.size / here.residual
        accuracy = torch.maximum(eta[index], needed).clamp(max=LARGEST)
        step = _newton_step(equation, x[index], rows[index], here.step, accuracy, budget)
        point, found, moved = _line_search(equation, x[index], rows[index], here, step)
        forcing = GAMMA * (found.residual / here.residual) ** 2
        floor = GAMMA * eta[index] ** 2
        eta[index] = torch.where(floor > LARGEST, torch.maximum(forcing, floor), forcing).clamp(max=LARGEST)
        x[index] = point
        values.set(index, found)
        stuck[index] = ~moved


def _newton_step(equation: Equation, x: Tensor, rows: Tensor, right: Tensor, eta: Tensor, budget: int) -> Tensor:
    jacobian = Jacobian(lambda point: equation.g(point, rows), x)
    return gmres(lambda v: v + jacobian(v), right, tolerance=eta, restart=RESTART, max_products=max(1, budget)).x


def _line_search(
    equation: Equation, x: Tensor, rows: Tensor, values: Values, step: Tensor
) -> tuple[Tensor, Values, Tensor]:
    """The first point of the halved steps that is good enough, its values, and whether there was one."""
    size = torch.ones_like(values.residual)
    found_x, found, moved = x.clone(), values.clone(), torch.zeros_like(rows, dtype=torch.bool)
    for _ in range(HALVINGS):
        index = (~moved).nonzero()[:, 0]
        if not len(index):
            break
        point = x[index] + size[index, None] * step[index]
        there = equation.at(point, rows[index])
        good = there.residual <= (1 - DECREASE * size[index]) * values.residual[index]
        taken = index[good]
        found_x[taken] = point[good]
        found.set(taken, there[good])
        moved[taken] = True
        size[index[~good]] /= 2
    return found_x, found, moved
