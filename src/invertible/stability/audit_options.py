"""What an audit is asked to measure, and how much of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from invertible.errors import ConfigError, choose

ATTACK, DIGITS, SPECTRUM, BOUNDS, GRADIENTS = "attack", "digits", "spectrum", "bounds", "gradients"
# The sections that can be left out, in the order in which they run behind the round trips.
SECTIONS = (ATTACK, DIGITS, SPECTRUM, BOUNDS, GRADIENTS)
ROUND_TRIPS = "round trips"


@dataclass(frozen=True)
class Budget:
    """How much an audit measures.

    Attributes:
        data: samples of each set of the model's own data, and of `other`.
        strangers: samples of each set that is made, and of latents at each temperature.
        traced: worst samples of each set that are followed block by block and run again in float64.
        judged: of these, samples whose digits are predicted.
        attacked: samples that are attacked.
        steps: of each attack.
        restarts: of each attack, from other random starts.
        decomposed: samples whose singular values are measured.
        iterations: for singular values, of either direction.
        dense: up to as many dimensions all singular values are computed, and log-determinants checked against them.
        graded: samples in the batch whose gradients are compared.
        temperatures: deviations of the latents that are decoded and encoded again.
    """

    data: int
    strangers: int
    traced: int
    judged: int
    attacked: int
    steps: int
    restarts: int
    decomposed: int
    iterations: int
    dense: int
    graded: int
    temperatures: tuple[float, ...]


EFFORTS = {
    "quick": Budget(
        data=1000, strangers=32, traced=4, judged=2, attacked=4, steps=30, restarts=1, decomposed=1, iterations=8,
        dense=128, graded=4, temperatures=(0.7, 1.0, 2.0, 5.0),
    ),
    "full": Budget(
        data=4096, strangers=256, traced=32, judged=32, attacked=32, steps=200, restarts=3, decomposed=8, iterations=64,
        dense=400, graded=32, temperatures=(0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class AuditOptions:
    """What an audit measures, and when it is content.

    Args:
        tolerance: largest relative error of a round trip, and largest disagreement of log-determinants per
            dimension, at which a set passes. 1e-3 is some 8,000 eps of float32: no difference that an eye could see.
        effort: `"quick"`, a minute for an image model on two cores, or `"full"`: more samples, more temperatures, 200
            steps of attack from three starts. `EFFORTS` holds the numbers.
        samples: samples of every set; those of the effort if `None`.
        temperatures: deviations of the latents that are decoded and encoded again; those of the effort if `None`.
        ood: measure sets far from the data as well.
        strict: these sets, latents at temperatures above 1 and attacked samples must pass, too.
        control: run the worst samples again in float64, which tells rounding from a wrong inverse.
        traced: number of worst samples of each set that are followed block by block and run again; that of the effort
            if `None`.
        batch_size: samples per call of the model.
        sections: what to measure beside round trips, among `"attack"`, `"digits"`, `"spectrum"`, `"bounds"` and
            `"gradients"`.
        attack_radius: largest change of each value by the attack; half a grey level if the model has `levels`
            (Behrmann et al. 2021), else a fiftieth of the data's deviation, if `None`.

    Raises:
        ConfigError: naming the option that is out of its range.
    """

    tolerance: float = 1e-3
    effort: str = "quick"
    samples: int | None = None
    temperatures: Sequence[float] | None = None
    ood: bool = True
    strict: bool = True
    control: bool = True
    traced: int | None = None
    batch_size: int = 64
    sections: Sequence[str] = SECTIONS
    attack_radius: float | None = None

    def __post_init__(self) -> None:
        choose("AuditOptions", "effort", self.effort, EFFORTS)
        if self.temperatures is not None:
            object.__setattr__(self, "temperatures", tuple(float(t) for t in self.temperatures))
        for name in ("samples", "traced", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"AuditOptions: expected {name} of at least 1, got {value}.")
        if not 0 < self.tolerance < math.inf:
            raise ConfigError(f"AuditOptions: expected tolerance to be positive and finite, got {self.tolerance}.")
        if not all(0 < t < math.inf for t in self.temperatures or ()):
            raise ConfigError(f"AuditOptions: expected positive temperatures, got {self.temperatures}.")
        if isinstance(self.sections, str) or not set(self.sections) <= set(SECTIONS):
            raise ConfigError(f"AuditOptions: expected sections among {', '.join(SECTIONS)}, got {self.sections!r}.")
        object.__setattr__(self, "sections", tuple(each for each in SECTIONS if each in self.sections))
        if self.attack_radius is not None and not 0 < self.attack_radius < math.inf:
            raise ConfigError(
                f"AuditOptions: expected attack_radius to be positive and finite, got {self.attack_radius}."
            )

    @property
    def budget(self) -> Budget:
        """The effort's numbers, with those that were given in their place."""
        budget = EFFORTS[self.effort]
        if self.samples is not None:
            budget = replace(budget, data=self.samples, strangers=self.samples)
        if self.traced is not None:
            budget = replace(budget, traced=self.traced)
        if self.temperatures is not None:
            budget = replace(budget, temperatures=tuple(self.temperatures))
        return budget
