"""The section of an audit that attacks: its worst points are one more set, measured like the others."""

from typing import Any

import torch
from torch import Tensor

from invertible.bijection import Bijection
from invertible.errors import DomainError
from invertible.shapes import finite_rows
from invertible.stability.attack import attack
from invertible.stability.attack_result import AttackResult
from invertible.stability.laboratory import Measured
from invertible.stability.passage import send
from invertible.stability.records import ADVERSARIAL
from invertible.stability.sample_sets import SampleSet, SampleSets
from invertible.stability.sections import Sections, UnsuitedError
from invertible.stability.summaries import AttackSummary

NORM = "linf"
# Of the deviation of data without grey levels, the radius of the attack.
FRACTION = 0.02
# Samples tried for want of traced ones that come back.
CANDIDATES = 64


def attack_samples(sets: SampleSets, measured: Measured, sections: Sections) -> tuple[SampleSet, AttackSummary]:
    """Attack the worst samples of a set, each within a small box about it.

    Raises:
        UnsuitedError: if nothing finite is there to attack, or every box leads out of the model's domain.
    """
    options, budget = sets.options, sets.budget
    rows = _standing(sets.bijection, measured)[: budget.attacked]
    x, condition = measured.chosen.some(rows)
    radius, reason = _radius(options.attack_radius, sets.levels, measured.chosen.values)
    found = _search(
        sets, (x, condition), measured.chosen.values, radius,
        steps=budget.steps, restarts=budget.restarts, generator=sets.generator,
        progress=lambda done, total: sections.tell(f"step {done} of {total}", finished=False),
    )  # fmt: skip
    text = f"{measured.chosen.name} data, each value moved by at most {radius:.2g} to where the inverse errs most"
    moved, indices = found.worst_x, measured.chosen.rows[rows]
    chosen = SampleSet("attacked", ADVERSARIAL, text, options.strict, moved, condition, indices, x)
    return chosen, _summary(found, measured.chosen.name, reason, budget.restarts)


def _standing(bijection: Bijection, measured: Measured) -> Tensor:
    """Rows of samples that come back, the worst first: what is lost already needs no attack."""
    rows = torch.cat((measured.rows, torch.arange(min(CANDIDATES, len(measured.chosen.values)))))
    rows = torch.tensor(list(dict.fromkeys(rows.tolist())), dtype=torch.long)
    x, condition = measured.chosen.some(rows)
    back = send(bijection.inverse, send(bijection, x, condition).output, condition).output
    rows = rows[finite_rows(back).cpu()]
    if not len(rows):
        raise UnsuitedError("no sample comes back that could be attacked")
    return rows


def _search(
    sets: SampleSets,
    batch: tuple[Tensor, Tensor | None],
    data: Tensor,
    radius: float,
    **options: Any,  # noqa: ANN401
) -> AttackResult:
    """The attack, inside the box of the data if it must be."""
    x, condition = batch
    low, high = (float(side) for side in data.aminmax())
    is_image = x.dim() > 2 and low >= 0 and high <= 1
    limits = (0.0, 1.0) if sets.levels is not None or is_image else None
    message = ""
    for inside in dict.fromkeys((limits, (low, high))):
        try:
            return attack(sets.bijection, x, radius, norm=NORM, condition=condition, limits=inside, **options)
        except DomainError as error:
            message = str(error)
    raise UnsuitedError(message)


def _radius(given: float | None, levels: int | None, data: Tensor) -> tuple[float, str]:
    """The radius, and where it comes from."""
    if given is not None:
        return given, "as asked"
    if levels is not None:
        return 0.5 / levels, f"half of one of {levels} grey levels"
    deviation = float(data.double().flatten(1).std(0).mean()) if len(data) > 1 else 0.0
    if not 0 < deviation < float("inf"):
        raise UnsuitedError("the data do not vary, so that no radius follows from them; give attack_radius")
    return FRACTION * deviation, f"{FRACTION:.0%} of the data's deviation"


def _summary(found: AttackResult, name: str, reason: str, restarts: int) -> AttackSummary:
    # A sample that is lost stays lost: from there on its error is infinite, and so may the median be.
    history = torch.cat((found.start_error[None], found.history))
    lost = found.first_non_finite[found.first_non_finite >= 0]
    return AttackSummary(
        name,
        len(found.x),
        found.norm,
        found.radius,
        reason,
        len(found.history) - 1,
        restarts,
        tuple(history.median(1).values.tolist()),
        tuple(history.amax(1).tolist()),
        int(lost.min()) if len(lost) else None,
        found.non_finite,
    )
