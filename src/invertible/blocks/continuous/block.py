"""The continuous block: the flow of a vector field as a bijection."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from invertible.bijection import Bijection, Domain, LipschitzBounds, Reconstruction
from invertible.blocks.continuous.energies import Energies, KeepsEnergies
from invertible.blocks.continuous.field import Flowline, needs_graph, tensors_of
from invertible.blocks.continuous.solving import solver_of
from invertible.blocks.continuous.traces import Trace
from invertible.errors import ConfigError
from invertible.norms import lipschitz_bound, ode_norms
from invertible.shapes import zero_log_det
from invertible.solvers.defect import exact_inverse
from invertible.solvers.ode.adaptive import AdaptiveSolver
from invertible.solvers.ode.solver import ODESolver
from invertible.without_log_det import log_det_wanted


class Evaluations(NamedTuple):
    """How often the field was evaluated in the last pass of each direction, 0 before the first.

    Attributes:
        forward: of data to latent.
        inverse: of latent to data, with all corrections and the log-determinant.
    """

    forward: int = 0
    inverse: int = 0


class ContinuousBlock(KeepsEnergies, Bijection):
    """The flow of a vector field: y = x(t_1) for x' = v(t, x | c), x(t_0) = x (Chen et al. 2018; FFJORD, 2019).

    Inverse: the solution backward from y, then corrected until the computed forward map returns y: solving backward
    inverts the equation but not its discrete solution. log_det = integral of tr dv/dx(t, x(t)) over time (Chen et al.
    2018, theorem 1), solved with x.

    Args:
        net: v, a module with `forward(t, x)`, or `forward(t, x, condition)` if its attribute `condition_features` is
            positive; returns x's shape. t is a scalar, or of shape (B,) where a solver steps each sample by itself.
            Smooth: no ReLU. `TimeNet` is one.
        solver: an ODE solver, or a name of `blocks.continuous.solving.SOLVERS` for one with its default arguments:
            `"dopri5"`, `"tsit5"` and `"adaptive-heun"` are adaptive, `"rk4"`, `"midpoint"`, `"euler"` and so on take
            fixed steps, `"reversible-midpoint"` and so on and `"asynchronous-leapfrog"` need no memory for them.
        rtol: relative tolerance of an adaptive solver given by name; 1e-5 if `None`.
        atol: absolute tolerance of an adaptive solver given by name; 1e-5 if `None`.
        trace: `"exact"`, `"hutchinson"`, `"auto"`, or a `Trace` with probes of one's own choice.
        time: (t_0, t_1), the span.
        energies: compute the energies of RNODE in training mode, for `energies(model)`.
        inverse_tolerance: largest |f(x) - y| / (1 + |y|) of the inverse, per sample. `None`: 64 eps of the dtype for
            fixed steps, 0.1 (rtol + atol) for adaptive ones, if that is larger; `math.inf`: no correction.

    Shapes:
        x, y: (B, C, ...), as the net takes; log_det: (B,).

    Cost: one solve forward, each evaluation a network and, for the log-determinant, one vector-Jacobian product a
    probe or D for the exact trace. The inverse solves without trace backward and forward once a correction, two or
    three times, and once with it. Memory: the solver's. `evaluations` tells the number of evaluations.

    Numerics: exact in the limit of small steps. log_det is the solver's quadrature along the computed path and
    differs from log|det| of the computed map by the solver's error: of order h^p for p-th order fixed steps of size h.
    In training mode with Hutchinson's estimator log_det is an estimate; in eval mode above 64 dimensions it is one by
    fixed probes (`trace="exact"` for none). `bounds` are those of the exact flow, e^(L T) both ways for Lip(v) <= L.
    With an adaptive solver, f itself jumps by about the tolerance where the number of steps changes. Gradients of the
    inverse are those of the solution backward: their error is the solver's, at the values that the correction found.

    Raises:
        ConfigError: if an argument is out of its range.
        ShapeError: on an input or condition of the wrong shape, or a net that returns another.
        ConvergenceError: if an adaptive solver cannot go on, or the inverse does not meet its tolerance.

    Example:
        >>> block = ContinuousBlock(TimeNet(2), solver="dopri5", rtol=1e-6, atol=1e-6)
        >>> y, log_det = block(torch.randn(8, 2))
        >>> block.evaluations.forward
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        solver: ODESolver | str = "dopri5",
        rtol: float | None = None,
        atol: float | None = None,
        trace: Trace | str = "auto",
        time: tuple[float, float] = (0.0, 1.0),
        energies: bool = False,
        inverse_tolerance: float | None = None,
    ) -> None:
        super().__init__()
        self.net, self.solver = net, _solver(solver, rtol, atol)
        self.trace = Trace(trace) if isinstance(trace, str) else trace
        self.start, self.end = time
        if not (math.isfinite(self.start) and math.isfinite(self.end) and self.start != self.end):
            raise ConfigError(f"ContinuousBlock: expected two different finite times, got {time}.")
        if inverse_tolerance is not None and not inverse_tolerance > 0:
            raise ConfigError(
                f"ContinuousBlock: expected a positive inverse_tolerance, got {inverse_tolerance}. math.inf switches "
                "the correction off."
            )
        self.inverse_tolerance, self.keeps = inverse_tolerance, energies
        self.condition_features = int(getattr(net, "condition_features", 0))
        self.spatial_dims = getattr(net, "spatial_dims", None)
        self.evaluations = Evaluations()

    def forward(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Solve from t_0 to t_1."""
        self._check_input(x, condition)
        if not log_det_wanted():
            y, used = self._line(condition).positions(x, self.start, self.end)
            self.evaluations = self.evaluations._replace(forward=used)
            return y, zero_log_det(x)
        return self._solve(x, condition, self.trace.probes(x, training=self.training))

    def inverse(self, y: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Solve from t_1 to t_0, and correct."""
        self._check_input(y, condition)
        line = self._line(condition)
        with torch.no_grad():
            x, used = self._found(y.detach(), line)
        if not log_det_wanted():
            if needs_graph(y, line.parameters):
                back, more = line.positions(y, self.end, self.start)
                x, used = back + (x - back).detach(), used + more
            self.evaluations = self.evaluations._replace(inverse=used)
            return x, zero_log_det(y)
        probes = self.trace.probes(y, training=self.training)
        with torch.no_grad():
            (_, log_det, *_), last = line.whole(x, self.start, self.end, probes)
        log_det = -log_det
        if needs_graph(y, line.parameters):
            # Values of the exact inverse, derivatives of the equation solved backward.
            (back, back_log_det, *_), more = line.whole(y, self.end, self.start, probes)
            x, log_det = back + (x - back).detach(), back_log_det + (log_det - back_log_det).detach()
            last += more
        self.evaluations = self.evaluations._replace(inverse=used + last)
        return x, log_det

    def reconstruct(self, y: Tensor, condition: Tensor | None = None) -> Reconstruction:
        """Recover x, then solve again; probes are drawn once, so that log_det is that of the first pass."""
        self._check_input(y, condition)
        probes = self.trace.probes(y, training=self.training)
        with torch.no_grad():
            x, _ = self._found(y.detach(), self._line(condition))
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            return Reconstruction(x, *self._solve(x, condition, probes))

    def bounds(self, domain: Domain | None = None) -> LipschitzBounds:
        """e^(L T) both ways, of the exact flow, where `net.lipschitz_bound()` certifies L for all t."""
        return LipschitzBounds(*ode_norms(lipschitz_bound(self.net), abs(self.end - self.start)))

    def _solve(self, x: Tensor, condition: Tensor | None, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        keep = self.keeps and self.training
        (y, log_det, *integrals), used = self._line(condition).whole(x, self.start, self.end, probes, energies=keep)
        self.evaluations = self.evaluations._replace(forward=used)
        if keep:
            size = math.copysign(x.shape[1:].numel(), self.end - self.start)
            self.kept = Energies(*(each / size for each in integrals))
        return y, log_det

    def _found(self, y: Tensor, line: Flowline) -> tuple[Tensor, int]:
        """x with f(x) = y, and the evaluations it took."""
        used = [0]

        def run(value: Tensor, start: float, end: float) -> Tensor:
            result, count = line.positions(value, start, end)
            used[0] += count
            return result

        if not len(y) or self.inverse_tolerance == math.inf:
            return run(y, self.end, self.start), used[0]
        x = exact_inverse(
            lambda value: run(value, self.start, self.end),
            lambda value: run(value, self.end, self.start),
            y,
            tolerance=self._tolerance(y.dtype),
            owner="ContinuousBlock",
        )
        return x, used[0]

    def _tolerance(self, dtype: torch.dtype) -> float | None:
        solver = self.solver
        if self.inverse_tolerance is not None or not isinstance(solver, AdaptiveSolver):
            return self.inverse_tolerance
        return max(64 * torch.finfo(dtype).eps, 0.1 * (solver.rtol + solver.atol))

    def _line(self, condition: Tensor | None) -> Flowline:
        return Flowline(self.net, self.solver, condition, tensors_of(self.net, condition))

    def _check_input(self, x: Tensor, condition: Tensor | None) -> None:
        reference = next(self.net.parameters(), None)
        self._check(x, condition, getattr(self.net, "features", None), self.spatial_dims, reference)

    def extra_repr(self) -> str:
        """Solver, trace and span."""
        return f"{self.solver}, {self.trace}, time=({self.start:g}, {self.end:g})"


def _solver(solver: ODESolver | str, rtol: float | None, atol: float | None) -> ODESolver:
    tolerances = {name: value for name, value in (("rtol", rtol), ("atol", atol)) if value is not None}
    if isinstance(solver, str):
        return solver_of("ContinuousBlock", {"method": solver, **tolerances})
    if tolerances:
        raise ConfigError(
            f"ContinuousBlock: expected rtol and atol with a solver given by name, got them beside {solver}. Give the "
            "tolerances to the solver."
        )
    return solver
