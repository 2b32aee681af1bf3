"""Attack the invertibility of a map: the points near data at which its inverse is worst."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from invertible.errors import ConfigError, require_positive
from invertible.stability.ascent import Climber
from invertible.stability.attack_result import AttackResult
from invertible.stability.projection import Ball
from invertible.stability.search import Search
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
        search = Search(Climber(bijection, chosen.inverse_gradient), ball, x.detach(), given)
        done, total = 0, chosen.restarts * (steps + 1)
        for restart in range(chosen.restarts):
            objective = chosen.objective if chosen.objective != "both" else OBJECTIVES[1 + restart % 2]
            for _ in search.run(objective, steps, step_size, generator):
                done += 1
                if chosen.progress is not None:
                    chosen.progress(done, total)
    return search.result(step_size)


def _options(options: dict[str, Any]) -> AttackOptions:
    unknown = sorted(set(options) - set(AttackOptions.__dataclass_fields__))
    if unknown:
        raise ConfigError(
            f"attack: expected options among {', '.join(AttackOptions.__dataclass_fields__)}, got {', '.join(unknown)}."
        )
    return AttackOptions(**options)
