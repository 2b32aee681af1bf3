"""The searches of an attack: ascents from points of a ball, every sample on its own, and the worst that they met."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from invertible.stability.ascent import Climb, Climber
from invertible.stability.attack_result import AttackResult
from invertible.stability.batches import rows_of
from invertible.stability.passage import norms, usual_norm
from invertible.stability.projection import Ball, normal, unit


@dataclass
class Run:
    """One search from one start; everything per sample.

    Attributes:
        z: where it is, (B, ...).
        worst_z: the worst point so far.
        worst_back: its reconstruction.
        history: errors by step, (steps + 1, B); `inf` where none was measured.
        first: number of the step at which the sample was lost, -1 for none, (B,).
        random_steps: steps without a usable gradient, (B,).
    """

    z: Tensor
    worst_z: Tensor
    worst_back: Tensor
    history: Tensor
    first: Tensor
    random_steps: Tensor

    @property
    def error(self) -> Tensor:
        """The largest error, (B,)."""
        return self.history.amax(0)

    def rows(self, chosen: Tensor, other: Run) -> None:
        """Take over some samples of another search; `chosen` boolean of shape (B,)."""
        there = chosen.to(self.z.device)
        for name in ("z", "worst_z", "worst_back"):
            getattr(self, name)[there] = getattr(other, name)[there]
        self.history[:, chosen] = other.history[:, chosen]
        self.first[chosen], self.random_steps[chosen] = other.first[chosen], other.random_steps[chosen]


class Search:
    """The searches around one batch. Points are kept in float32 at least: half precision would lose the steps.

    Args:
        climber: gives reconstructions and gradients.
        ball: where to search.
        x: the data, the centres of the balls.
        condition: their condition.
    """

    def __init__(self, climber: Climber, ball: Ball, x: Tensor, condition: Tensor | None) -> None:
        self.climber, self.ball, self.x, self.condition = climber, ball, x, condition
        self.centre = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        self.scale = usual_norm(x)
        # x is a point of the ball as well.
        self.start_back = climber.reconstruction(x, condition)
        self.start_error = self.relative(self.centre, self.start_back)
        self.best: Run | None = None
        self.runs, self.restart = 0, torch.zeros(len(x), dtype=torch.long)

    def relative(self, z: Tensor, back: Tensor, rows: Tensor | None = None) -> Tensor:
        """|z - z'|_2 on the scale of x, `inf` where z' is not finite; float64 on the CPU."""
        sent = z.to(self.x.dtype)
        error = norms(back.cpu().double() - sent.cpu().double()) / self.scale[slice(None) if rows is None else rows]
        return torch.where(error.isfinite(), error, math.inf)

    def run(self, objective: str, steps: int, step_size: float, generator: torch.Generator) -> Iterator[None]:
        """Search once, step by step, and keep what is worse than before."""
        z, count = self.ball.start(self.centre, generator), len(self.x)
        found = Run(
            z,
            z.clone(),
            torch.full_like(self.x, torch.nan),
            torch.full((steps + 1, count), math.inf, dtype=torch.float64),
            torch.full((count,), -1),
            torch.zeros(count, dtype=torch.long),
        )
        probe = None
        if objective == "amplification":
            probe = self.climber.probe(self.x, self.condition, lambda y: unit(normal(y, generator)))
        alive = torch.arange(count)
        for step in range(steps + 1):
            climb = self._climb(found.z, alive, probe, objective if step < steps else "")
            lost = self._record(found, step, alive, climb)
            alive, kept = alive[~lost], (~lost).to(z.device)
            if step < steps and len(alive):
                if probe is not None and climb.probe is not None:
                    probe[alive.to(z.device)] = climb.probe[kept]
                self._step(found, alive, climb.gradient[kept], step_size, generator)
            yield
        self._keep(found)

    def _climb(self, z: Tensor, rows: Tensor, probe: Tensor | None, objective: str) -> Climb:
        rows = rows.to(z.device)
        sent = z[rows].to(self.x.dtype)
        given = rows_of(self.condition, rows)
        if not objective or not len(rows):
            back = self.climber.reconstruction(sent, given) if len(rows) else sent
            return Climb(back, sent)
        if objective == "error":
            return self.climber.error(sent, given)
        return self.climber.amplification(sent, given, rows_of(probe, rows))

    def _record(self, found: Run, step: int, rows: Tensor, climb: Climb) -> Tensor:
        """Note the errors at this step; returns which of the rows are lost."""
        there = rows.to(found.z.device)
        errors = self.relative(found.z[there], climb.reconstruction, rows)
        worse = errors > (found.history[:step, rows].amax(0) if step else -math.inf)
        found.history[step, rows] = errors
        found.worst_z[there[worse.to(there.device)]] = found.z[there[worse.to(there.device)]]
        found.worst_back[there[worse.to(there.device)]] = climb.reconstruction[worse.to(there.device)]
        found.first[rows[errors.isinf()]] = step
        return errors.isinf()

    def _step(self, found: Run, rows: Tensor, gradient: Tensor, size: float, generator: torch.Generator) -> None:
        flat = gradient.reshape(len(gradient), -1)
        blind = ~(flat.isfinite().all(1) & (flat != 0).any(1))
        found.random_steps[rows[blind.cpu()]] += 1
        gradient = gradient.to(found.z.dtype)
        gradient[blind] = normal(gradient[blind], generator)
        there = rows.to(found.z.device)
        found.z[there] = self.ball.back(found.z[there] + self.ball.step(gradient, size), self.centre[there])

    def _keep(self, found: Run) -> None:
        """Take over the samples for which this search ended worse, or as badly but sooner."""
        if self.best is None:
            self.best, self.runs = found, 1
            return
        best = self.best
        sooner = found.error.isinf() & best.error.isinf() & (found.first < best.first)
        taken = (found.error > best.error) | sooner
        best.rows(taken, found)
        self.restart[taken] = self.runs
        self.runs += 1

    def result(self, step_size: float) -> AttackResult:
        """What the searches found."""
        best = self.best
        assert best is not None
        own = (self.start_error > best.error) | (self.start_error.isinf() & (best.first != 0))
        there = own.to(self.x.device)
        best.worst_z[there], best.worst_back[there] = self.centre[there], self.start_back[there]
        best.first[own & self.start_error.isinf()] = 0
        return AttackResult(
            self.x.clone(),
            best.worst_z.to(self.x.dtype),
            best.worst_back,
            self.start_error,
            torch.maximum(best.error, self.start_error),
            best.history,
            best.first,
            best.random_steps,
            self.restart,
            self.ball.norm,
            self.ball.radius,
            step_size,
            torch.finfo(self.x.dtype).eps,
        )
