"""The learning rate as a pure function of the step, so that a resumed run needs no history."""

import math

from invertible.training.recipe import Schedule


def factor(schedule: Schedule, step: int, steps: int) -> float:
    """Factor of the learning rate at a step.

    With w the warm-up and t = (step - w)/(steps - w): linear (step + 1)/(w + 1) for step < w; then 1 (constant),
    floor + (1 - floor)(1 + cos(pi t))/2 (cosine; Loshchilov & Hutter 2017, equation 5, without restarts),
    factor^floor((step - w)/every) (step), or factor^(number of milestones m <= step) (milestones).

    Args:
        schedule: the schedule.
        step: number of steps taken before this one.
        steps: length of the run.
    """
    if step < schedule.warmup:
        return (step + 1) / (schedule.warmup + 1)
    after = step - schedule.warmup
    if schedule.name == "cosine":
        progress = min(1.0, after / max(1, steps - schedule.warmup))
        return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.name == "step":
        return schedule.factor ** (after // schedule.every)
    if schedule.name == "milestones":
        return schedule.factor ** sum(step >= milestone for milestone in schedule.at)
    return 1.0
