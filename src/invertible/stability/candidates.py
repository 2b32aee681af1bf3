"""The search for the best inverse of every sample: what is tried, how it is judged, and what is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.bijection import Bijection
from invertible.chain import Chain
from invertible.errors import NotInvertibleError, ShapeError
from invertible.memory import Exact
from invertible.stability.batches import cast_floating, rows_of
from invertible.stability.checked import CheckedInverse
from invertible.stability.control import Control
from invertible.stability.passage import norms, send, usual_norm
from invertible.stability.shooting import PROBES, Shooting
from invertible.stability.trajectory import Trajectory

# What is tried, in this order. The plain inverse comes first: nothing that is worse replaces it.
PLAIN, FLOAT64, SHOOTING, SINGLE = "plain", "float64", "shooting", "single-shooting"
EXACT = "memory.Exact computes in an arithmetic of its own, in which it was checked"
# A sweep that does not bring its change below this part of the one before has reached the rounding.
STALLED = 0.5


class Search:
    """The best inverse so far of every sample, and what is known of it."""

    def __init__(self, bijection: Bijection, y: Tensor, condition: Tensor | None, tolerance: float) -> None:
        exact = any(isinstance(module, Chain) and isinstance(module.memory, Exact) for module in bijection.modules())
        control = Control(bijection, wanted=not exact)
        dtypes = [p.dtype for p in bijection.parameters() if p.is_floating_point()]
        self.own = y.dtype if exact or not dtypes else dtypes[0]
        self.note = EXACT if exact else "" if self.own == torch.float64 else control.note
        self.bijection, self.precise = bijection, control.bijection or bijection
        self.given, self.tolerance, self.exact = (y, condition), tolerance, exact
        self._work_in(self.own if control.bijection is None else torch.float64)
        self.method, self.changes = [PLAIN] * len(y), []
        self.attempt = self._plain()
        self.start_residual = self.attempt.residual.clone()

    def _work_in(self, dtype: torch.dtype) -> None:
        y, condition = self.given
        self.dtype, self.y, self.condition = dtype, y.to(dtype), cast_floating(condition, dtype)
        self.y_size = usual_norm(self.y)
        self.shooting = self._shooting(whole=self.exact)

    def _shooting(self, *, whole: bool) -> Shooting:
        return Shooting(
            self.bijection, self.precise, self.condition, self.own, self.dtype, whole=whole, rounds=not self.exact
        )

    @property
    def error(self) -> Tensor:
        """Estimated |x - f^-1(y)| / |x|, before x is rounded."""
        return _finite(self.attempt.distance / usual_norm(self.attempt.path.x))

    @property
    def passed(self) -> Tensor:
        """The samples that meet the tolerance, before x is rounded."""
        return (self.attempt.residual <= self.tolerance) & (self.error <= self.tolerance)

    def _plain(self) -> Attempt:
        """The inverse in the model's own dtype; where a copy in float64 turns out not to run, without the copy."""
        rows = torch.arange(len(self.y))
        try:
            return self._judged(self._start(), rows, self._plain_probes)
        except (RuntimeError, TypeError, ShapeError) as error:
            if self.precise is self.bijection:
                raise
            self.precise = self.bijection
            self.note = f"the model does not run in float64: {(str(error).splitlines() or [type(error).__name__])[0]}"
            self._work_in(self.own)
            return self._judged(self._start(), rows, self._plain_probes)

    @property
    def _plain_probes(self) -> int:
        # The rounding of the model's own dtype drowns that of the working one.
        return 1 if self.own != self.dtype else PROBES

    def _start(self) -> Trajectory:
        path = self.shooting.trajectory(self.y, precise=False)
        if path is not None:
            return path
        path = self.shooting.trajectory(self.y, precise=True)
        if path is None:
            raise NotInvertibleError(
                f"checked_inverse: expected f.inverse to return something, but it raised an error for each of the "
                f"{len(self.y)} samples, also in {self.dtype}; the first one: {self.shooting.raised[0]}",
                sample=0,
                error=math.inf,
            )
        # The model's own inverse raised for all; the other one knows at least the shapes.
        return path.lost()

    def refine(self, method: str, rows: Tensor, sweeps: int, goal: float) -> None:
        """Try one method on some samples, with sweeps until no relative change of x exceeds `goal`."""
        here = rows.to(self.y.device)
        shooting, y, path = self.shooting.rows(here), self.y[here], self.attempt.path.rows(here)
        if method == FLOAT64:
            # Where the model is in float64, its plain inverse was that.
            found = shooting.trajectory(y, precise=True) if self.precise is not self.bijection else None
        elif method == SHOOTING:
            found = self._swept(shooting, path, rows, sweeps, goal)
        else:
            whole = self._shooting(whole=True).rows(here)
            ends = Trajectory([path.states[0], path.states[-1]], [path.images[-1]])
            x = self._swept(whole, whole.forward(path.x, ends), rows, sweeps, goal).x
            found = shooting.forward(x, path)
        if found is None:
            return
        new = self._judged(found, rows)
        old = self.attempt.distance[rows]
        better = (new.residual <= self.start_residual[rows]) & new.residual.isfinite() & (new.distance <= old)
        self.attempt.put(rows[better], new, better)
        for row in rows[better].tolist():
            self.method[row] = method

    def _swept(self, shooting: Shooting, path: Trajectory, rows: Tensor, sweeps: int, goal: float) -> Trajectory:
        before = torch.full((len(rows),), math.inf, dtype=torch.float64)
        done = torch.zeros(len(rows), dtype=torch.bool)
        for _ in range(sweeps):
            x = path.x
            path = shooting.sweep(path)
            change = _finite(norms(path.x - x) / usual_norm(path.x))
            self.changes.append(torch.full((len(self.y),), math.nan, dtype=torch.float64).index_copy(0, rows, change))
            done |= (change <= goal) | ((change > STALLED * before) & change.isfinite())
            if bool(done.all()):
                break
            before = change
        return path

    def _judged(self, path: Trajectory, rows: Tensor, probes: int = PROBES) -> Attempt:
        """What is known of an inverse."""
        here = rows.to(self.y.device)
        estimate = self.shooting.rows(here).estimate(path, probes)
        residual, log_det = self.verified(path.x, rows)
        residuals, growth = (_finite(each.cpu().double()) for each in (estimate.residuals, estimate.growth))
        return Attempt(path, residual, _finite(estimate.error.cpu().double()), log_det, residuals, growth)

    def verified(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """|f(x) - y| / |y| and log|det df^-1/dy|, both of shape (B,), in the working dtype."""
        here = rows.to(self.y.device)
        sent = send(self.precise, x.to(self.dtype), rows_of(self.condition, here))
        self.shooting.raised.extend(str(error) for error in sent.errors if error is not None)
        residual = _finite(norms(sent.output.to(self.dtype) - self.y[here]) / self.y_size[rows])
        return residual, -sent.log_det.cpu().double()

    def result(self, dtype: torch.dtype, asked: str) -> CheckedInverse:
        """The best inverse of every sample, in the dtype asked for."""
        exact, every = self.attempt.path.x, torch.arange(len(self.y))
        x = exact.to(dtype)
        rounding = _finite(norms(x.to(exact.dtype) - exact) / usual_norm(exact))
        residual, log_det = self.attempt.residual, self.attempt.log_det
        if bool((rounding > 0).any()):
            residual, log_det = self.verified(x, every)
        return CheckedInverse(
            x,
            residual,
            self.error + rounding,
            self.passed & rounding.isfinite(),
            log_det=log_det,
            unrounded_residual=self.attempt.residual,
            unrounded_error=self.error,
            start_residual=self.start_residual,
            method=tuple(self.method),
            changes=torch.stack(self.changes) if self.changes else residual.new_empty(0, len(x)),
            blocks=tuple(self.shooting.paths),
            block_residuals=self.attempt.residuals,
            block_growth=self.attempt.growth,
            tolerance=self.tolerance,
            asked=asked,
            work_dtype=self.dtype,
            model_dtype=self.own,
            raised=self.shooting.raised[0] if self.shooting.raised else "",
            note=self.note,
        )


@dataclass
class Attempt:
    """An inverse and what is known of it, float64 on the CPU.

    Attributes:
        path: the inverse with the inputs of all blocks.
        residual: |f(x) - y| / |y|, (B,).
        distance: estimated |x - f^-1(y)|, (B,).
        log_det: log|det df^-1/dy|, (B,).
        residuals: of the blocks, (blocks, B).
        growth: of errors in the blocks' inverses, (blocks, B).
    """

    path: Trajectory
    residual: Tensor
    distance: Tensor
    log_det: Tensor
    residuals: Tensor
    growth: Tensor

    def put(self, rows: Tensor, other: Attempt, chosen: Tensor) -> None:
        """Replace the samples `rows` by those of another attempt that are chosen."""
        self.path = self.path.replaced(rows, other.path.rows(chosen))
        for name in ("residual", "distance", "log_det"):
            getattr(self, name)[rows] = getattr(other, name)[chosen]
        for name in ("residuals", "growth"):
            getattr(self, name)[:, rows] = getattr(other, name)[:, chosen]


def _finite(values: Tensor) -> Tensor:
    """What is not finite counts as infinite."""
    return torch.where(values.isfinite(), values, math.inf)
