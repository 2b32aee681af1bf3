"""Attack the invertibility of a map: the points near data at which its inverse is worst."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from invertible.errors import ConfigError, require_positive
from invertible.stability.ascent import Climb, Climber
from invertible.stability.attack_result import AttackResult
from invertible.stability.passage import norms, usual_norm
from invertible.stability.projection import Ball, normal, unit
from invertible.stability.subject import bijection_of, check_batch, condition_of, differentiable, seeded

OBJECTIVES = ("both", "error", "amplification")


@dataclass(frozen=True)
class AttackOptions:
    """How an attack searches.

    Attributes:
        restarts: number of searches, each from a random point of the ball; every sample keeps its worst result, or
            x itself if that is worse.
        objective: what to climb. `"error"` is the paper's |x - f^-1(f(x))|_2, whose gradient is the first-order effect
            of rounding errors; `"amplification"` is by how much the inverse multiplies a small change of f(x), whose
            gradient is that of a smooth function; with `"both"` the restarts take turns, `"error"` first.
        limits: (low, high) of valid data, to which points are clamped; `None` for none.
        inverse_gradient: `"autograd"` through the inverse, unrolling its iterations; `"implicit"`, by solving
            J_f(x')^T u = w, for inverses that run without grad; `"auto"` takes autograd where there is a graph.
        generator: a generator or a seed for the random points; seed 0 if `None`.
        progress: called after every step with the steps done and the steps of all restarts.

    Raises:
        ConfigError: naming the option that is out of its range.
    """

    restarts: int = 2
    objective: str = "both"
    limits: tuple[float, float] | None = None
    inverse_gradient: str = "auto"
    generator: torch.Generator | int | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        require_positive("attack", restarts=self.restarts)
        if self.objective not in OBJECTIVES:
            raise ConfigError(f"attack: expected objective to be one of {OBJECTIVES}, got {self.objective!r}.")


def attack(
    f: nn.Module,
    x: Tensor,
    radius: float,
    steps: int = 200,
    step_size: float | None = None,
    *,
    norm: str = "linf",
    condition: Tensor | None = None,
    **options: Any,  # noqa: ANN401
) -> AttackResult:
    """Find points near x where f^-1(f(x)) is far from x, by projected gradient ascent inside a ball.

    From a random point of the ball |z - x| <= radius, every step goes `step_size` along the signs of the gradient
    (`"linf"`) or along its unit vector (`"l2"`), and back into the ball (Madry et al. 2018). The goal is the
    reconstruction error |z - f^-1(f(z))|_2, as in Behrmann et al. (2021, figures 1 and 4), who took for radius half a
    quantisation bin, 200 steps of radius/31, and a random start; see `AttackOptions.objective` for what is climbed.

    A point whose reconstruction is not finite, or whose inverse raises an error about values, is the worst result
    there is: the sample's error is `inf` and it stays there, while the others go on. Where the gradient is NaN or 0,
    the step goes in a random direction, and is counted. f comes out unchanged, and its parameters get no gradients.

    Args:
        f: a `Bijection`, or a `Flow`, whose bijection is then attacked; it runs in eval mode.
        x: data (B, ...), float32 or float64. Half precision runs too; there the errors are large from the start.
        radius: of the ball.
        steps: number of steps, at least 1.
        step_size: length of a step; `radius/31` if `None`, and longer where so few steps would not cross the ball.
        norm: `"linf"` or `"l2"`.
        condition: condition of x, of B rows, kept fixed; labels for a flow with classes.
        **options: by name, see `AttackOptions`: `restarts`, `objective`, `limits`, `inverse_gradient`, `generator`,
            `progress`.

    Raises:
        ConfigError: if f is no bijection, or an argument or option is unknown or out of its range.
        ShapeError: if x is empty or no floating-point batch, or the condition does not fit it.
        DomainError: if x is not finite or outside `limits`, or the ball leads out of the domain of f.

    Example:
        >>> found = attack(flow, x_test, radius=0.5 / 256, restarts=4, limits=(0.0, 1.0))
        >>> print(found)
        >>> found.worst_x[found.worst_index], found.error, found.first_non_finite
    """
    bijection = bijection_of("attack", f)
    check_batch("attack", "x", x, condition)
    require_positive("attack", steps=steps)
    chosen = _options(options)
    ball = Ball(norm, radius, chosen.limits)
    ball.check(x)
    if step_size is None:
        step_size = radius * max(1 / 31, 2.5 / steps)
    if not 0 < step_size < math.inf:
        raise ConfigError(f"attack: expected step_size > 0 and finite, got {step_size}.")
    generator = seeded(chosen.generator)
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    with differentiable(f, seed):
        given = condition_of(f, bijection, condition, x)
        search = _Search(Climber(bijection, chosen.inverse_gradient), ball, x.detach(), given)
        search.start()
        for restart in range(chosen.restarts):
            search.run(restart, (steps, step_size), chosen, generator)
    return search.result(ball, step_size)


def _options(options: dict[str, Any]) -> AttackOptions:
    unknown = sorted(set(options) - set(AttackOptions.__dataclass_fields__))
    if unknown:
        raise ConfigError(
            f"attack: expected options among {', '.join(AttackOptions.__dataclass_fields__)}, got {', '.join(unknown)}."
        )
    return AttackOptions(**options)


@dataclass
class _Run:
    """One search from one start; everything per sample."""

    z: Tensor
    worst_z: Tensor
    worst_back: Tensor
    history: Tensor
    first: Tensor
    random_steps: Tensor

    @property
    def error(self) -> Tensor:
        return self.history.amax(0)

    def rows(self, chosen: Tensor, other: "_Run") -> None:
        """Take over some samples of another search; `chosen` boolean of shape (B,)."""
        there = chosen.to(self.z.device)
        for name in ("z", "worst_z", "worst_back"):
            getattr(self, name)[there] = getattr(other, name)[there]
        self.history[:, chosen] = other.history[:, chosen]
        self.first[chosen], self.random_steps[chosen] = other.first[chosen], other.random_steps[chosen]


@dataclass
class _Search:
    """The searches around one batch. Points are kept in float32 at least: half precision would lose the steps."""

    climber: Climber
    ball: Ball
    x: Tensor
    condition: Tensor | None
    best: _Run | None = None

    def __post_init__(self) -> None:
        self.centre = self.x.to(torch.float64 if self.x.dtype == torch.float64 else torch.float32)
        self.scale = usual_norm(self.x)
        self.restart = torch.zeros(len(self.x), dtype=torch.long)

    def start(self) -> None:
        """Measure x itself."""
        self.start_back = self.climber.reconstruction(self.x, self.condition)
        self.start_error = self.relative(self.centre, self.start_back)

    def relative(self, z: Tensor, back: Tensor, rows: Tensor | None = None) -> Tensor:
        """|z - z'|_2 on the scale of x, `inf` where z' is not finite; float64 on the CPU."""
        sent = z.to(self.x.dtype)
        error = norms(back.cpu().double() - sent.cpu().double()) / self.scale[slice(None) if rows is None else rows]
        return torch.where(error.isfinite(), error, math.inf)

    def run(self, restart: int, path: tuple[int, float], options: AttackOptions, generator: torch.Generator) -> None:
        """Search once, and keep what is worse than before."""
        steps, step_size = path
        z, count = self.ball.start(self.centre, generator), len(self.x)
        found = _Run(
            z,
            z.clone(),
            torch.full_like(self.x, torch.nan),
            torch.full((steps + 1, count), math.inf, dtype=torch.float64),
            torch.full((count,), -1),
            torch.zeros(count, dtype=torch.long),
        )
        objective = options.objective if options.objective != "both" else OBJECTIVES[1 + restart % 2]
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
            if options.progress is not None:
                options.progress(restart * (steps + 1) + step + 1, options.restarts * (steps + 1))
        self._keep(restart, found)

    def _climb(self, z: Tensor, rows: Tensor, probe: Tensor | None, objective: str) -> Climb:
        rows = rows.to(z.device)
        sent = z[rows].to(self.x.dtype)
        given = None if self.condition is None else self.condition[rows]
        if not objective or not len(rows):
            back = self.climber.reconstruction(sent, given) if len(rows) else sent
            return Climb(back, sent)
        if objective == "error":
            return self.climber.error(sent, given)
        return self.climber.amplification(sent, given, None if probe is None else probe[rows])

    def _record(self, found: _Run, step: int, rows: Tensor, climb: Climb) -> Tensor:
        """Note the errors at this step; returns which of the rows are lost."""
        there = rows.to(found.z.device)
        errors = self.relative(found.z[there], climb.reconstruction, rows)
        worse = errors > (found.history[:step, rows].amax(0) if step else -math.inf)
        found.history[step, rows] = errors
        found.worst_z[there[worse.to(there.device)]] = found.z[there[worse.to(there.device)]]
        found.worst_back[there[worse.to(there.device)]] = climb.reconstruction[worse.to(there.device)]
        found.first[rows[errors.isinf()]] = step
        return errors.isinf()

    def _step(self, found: _Run, rows: Tensor, gradient: Tensor, size: float, generator: torch.Generator) -> None:
        flat = gradient.reshape(len(gradient), -1)
        blind = ~(flat.isfinite().all(1) & (flat != 0).any(1))
        found.random_steps[rows[blind.cpu()]] += 1
        gradient = gradient.to(found.z.dtype)
        gradient[blind] = normal(gradient[blind], generator)
        there = rows.to(found.z.device)
        found.z[there] = self.ball.back(found.z[there] + self.ball.step(gradient, size), self.centre[there])

    def _keep(self, restart: int, found: _Run) -> None:
        """Take over the samples for which this search ended worse, or as badly but sooner."""
        if self.best is None:
            self.best = found
            return
        best = self.best
        sooner = found.error.isinf() & best.error.isinf() & (found.first < best.first)
        taken = (found.error > best.error) | sooner
        best.rows(taken, found)
        self.restart[taken] = restart

    def result(self, ball: Ball, step_size: float) -> AttackResult:
        """What the searches found."""
        best = self.best
        assert best is not None
        # x is a point of the ball as well.
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
            ball.norm,
            ball.radius,
            step_size,
            torch.finfo(self.x.dtype).eps,
        )
