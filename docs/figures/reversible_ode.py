"""Stability and gradients of reversible solvers: `python docs/figures/reversible_ode.py` writes their figure."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import nn

from invertible.solvers.ode.fixed_step import FixedStepSolver
from invertible.solvers.ode.leapfrog import AsynchronousLeapfrog
from invertible.solvers.ode.reversible import ReversibleSolver

INK, SOFT = "#1f2937", "#9ca3af"
COLOURS = ("#2563eb", "#0d9488", "#d97706", "#dc2626")


def growth(method: str, coupling: float, mu: np.ndarray) -> np.ndarray:
    """Largest eigenvalue of a step of x' = lambda x, mu = lambda h."""
    psi = {"midpoint": lambda m: m + m**2 / 2, "rk4": lambda m: m + m**2 / 2 + m**3 / 6 + m**4 / 24}[method]
    forth, back = psi(mu), psi(-mu)
    trace = coupling + 1 - back * (1 - coupling + forth)
    root = np.sqrt(trace**2 - 4 * coupling + 0j)
    return np.maximum(abs(trace + root), abs(trace - root)) / 2


def regions(axis: Axes, method: str) -> None:
    """Where a step does not grow, for several couplings."""
    x, y = np.meshgrid(np.linspace(-1.3, 0.25, 500), np.linspace(-1.2, 1.2, 500))
    for coupling, colour in zip((0.98, 0.9, 0.7, 0.4), COLOURS, strict=True):
        inside = growth(method, coupling, x + 1j * y) <= 1 + 1e-6
        axis.contour(x, y, inside.astype(float), [0.5], colors=[colour], linewidths=1.6)
        axis.plot([], [], color=colour, label=f"l = {coupling}")
    axis.axvline(0, color=SOFT, linewidth=0.6)
    axis.axhline(0, color=SOFT, linewidth=0.6)
    axis.set(title=f"{method}: a step is stable inside", xlabel="Re λh", ylabel="Im λh")
    axis.legend(frameon=False, fontsize=8, loc="upper left")


def contraction(axis: Axes) -> None:
    """Error of the solution of x' = -r x over one unit of time, by r."""
    rates = np.linspace(0.5, 25, 50)
    solvers = {
        "one-step rk4": FixedStepSolver("rk4", 100),
        "l = e^(-7/N), the default": ReversibleSolver("rk4", 100),
        "l = e^(-14/N)": ReversibleSolver("rk4", 100, coupling=float(np.exp(-0.14))),
        "l = 1": ReversibleSolver("rk4", 100, coupling=1.0),
        "leapfrog, damping 1": AsynchronousLeapfrog(100),
    }
    one = torch.ones(1, 1, dtype=torch.float64)
    for (name, solver), colour in zip(solvers.items(), (INK, *COLOURS), strict=True):
        errors = [
            abs(float(solver.solve(lambda t, s, r=rate: (-r * s[0],), (one,), 0.0, 1.0)[0][0]) - np.exp(-rate))
            for rate in rates
        ]
        axis.semilogy(rates, np.maximum(errors, 1e-16), color=colour, label=name, linewidth=1.6)
    axis.set(title="100 steps where the field contracts", xlabel="contraction r T", ylabel="error of the solution")
    axis.legend(frameon=False, fontsize=8)


def gradients(axis: Axes) -> None:
    """Relative error of gradients by number of steps."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    x, parameters = torch.randn(8, 3).double(), tuple(net.parameters())
    field = lambda t, state: (3 * torch.cos(t) * net(state[0]),)  # noqa: E731
    exact = _gradient(FixedStepSolver("dopri5", 200), field, x, parameters)
    counts = (4, 8, 16, 32, 64, 128, 256)
    solvers = {
        "midpoint": lambda n: ReversibleSolver("midpoint", n),
        "rk4": lambda n: ReversibleSolver("rk4", n),
        "dopri5": lambda n: ReversibleSolver("dopri5", n),
        "leapfrog": AsynchronousLeapfrog,
    }
    for (name, make), colour in zip(solvers.items(), COLOURS, strict=True):
        found = [_gradient(make(n), field, x, parameters) for n in counts]
        axis.loglog(counts, [float((g - exact).norm() / exact.norm()) for g in found], "o-", color=colour, label=name)
    axis.set(title="gradients converge with the method", xlabel="steps", ylabel="relative error to the equation's")
    axis.legend(frameon=False, fontsize=8)


def _gradient(solver, field, x, parameters) -> torch.Tensor:  # noqa: ANN001
    (y,), _ = solver.solve(field, (x,), 0.0, 1.0, parameters)
    return torch.cat([g.flatten() for g in torch.autograd.grad(y.square().sum(), parameters)])


def main() -> None:
    """Draw the four panels."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 8.4), layout="constrained")
    regions(axes[0, 0], "midpoint")
    regions(axes[0, 1], "rk4")
    contraction(axes[1, 0])
    gradients(axes[1, 1])
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).parents[1] / "images" / "reversible-ode.png", dpi=110)


if __name__ == "__main__":
    main()
