"""The sections of an audit in a line each."""

import math

from invertible.stability.audit_options import ATTACK, BOUNDS, DIGITS, GRADIENTS, ROUND_TRIPS, SPECTRUM
from invertible.stability.records import AuditRecord
from invertible.stability.summaries import (
    BROKEN,
    INTERRUPTED,
    UNSUITED,
    AttackSummary,
    BoundsSummary,
    DigitsSummary,
    GradientsSummary,
    SectionRecord,
    SpectrumSummary,
)

TITLES = {
    ROUND_TRIPS: "round trips",
    ATTACK: "attack",
    DIGITS: "trusted digits",
    SPECTRUM: "singular values",
    BOUNDS: "Lipschitz bounds",
    GRADIENTS: "gradients",
}


def section_line(record: AuditRecord, section: SectionRecord) -> str:
    """What a section found, in one line."""
    if section.status == BROKEN:
        return f"broke off by an error: {section.message}"
    if section.status == UNSUITED:
        return f"nothing to measure: {section.message}"
    before = "interrupted; " if section.status == INTERRUPTED else ""
    return before + _line(record, section.name)


def _line(record: AuditRecord, name: str) -> str:
    if name == ROUND_TRIPS:
        failed = sum(each.status == "failed" for each in record.sets)
        samples = sum(each.samples for each in record.sets)
        return f"{samples:,} samples in {len(record.sets)} sets, {failed} of which fail"
    if name == ATTACK and record.attack is not None:
        return attack_line(record.attack)
    if name == DIGITS and record.digits:
        return digits_line(record.digits)
    if name == SPECTRUM and record.spectrum:
        return spectrum_line(record.spectrum)
    if name == BOUNDS and record.bounds is not None:
        return bounds_line(record.bounds)
    if name == GRADIENTS and record.gradients is not None:
        return gradients_line(record.gradients)
    return "nothing measured"


def attack_line(found: AttackSummary) -> str:
    """Radius, steps, and by how much the error grew."""
    starts = f", {found.restarts} starts" if found.restarts > 1 else ""
    text = (
        f"{found.samples} samples within {figure(found.radius)} ({found.radius_reason}), {found.steps} steps{starts}: "
    )
    if found.lost:
        return f"{text}{found.lost} lost, the first after {found.first_loss} steps"
    return f"{text}worst error {figure(found.worst[0])} at the data, {figure(max(found.worst))} under attack"


def digits_line(found: tuple[DigitsSummary, ...]) -> str:
    """The fewest digits, and whether the predictions held."""
    worst = min(found, key=lambda each: each.least)
    samples, lost = sum(each.samples for each in found), sum(each.lost for each in found)
    held = samples - sum(each.exceeded for each in found)
    if lost:
        text = f"not one digit for {lost} of {samples} worst samples"
    else:
        text = f"at least {worst.least:.1f} decimal digits ({worst.set})"
    if all(math.isnan(each.measured) for each in found):
        return text
    return f"{text}; the predicted bound holds on {held} of {samples}"


def spectrum_line(found: tuple[SpectrumSummary, ...]) -> str:
    """Condition numbers and log-determinants."""
    worst = max(found, key=lambda each: math.inf if each.non_finite else each.condition_worst)
    test = found[0]
    least = "at least " if test.method == "iterative" else ""
    text = f"condition number {least}{quantity(test.condition_worst)} ({test.set})"
    if worst is not test:
        text += f", {'not finite' if worst.non_finite else quantity(worst.condition_worst)} ({worst.set})"
    wrong = [each for each in found if each.log_det_error > each.log_det_rounding]
    if wrong:
        return f"{text}; log-det wrong by {figure(max(each.log_det_error for each in wrong))} a dimension"
    if all(math.isnan(each.log_det_error) for each in found):
        return f"{text}; log-det not checked in so many dimensions"
    return f"{text}; log-det right but for rounding"


def bounds_line(found: BoundsSummary) -> str:
    """Bounds everywhere and on the data's box."""
    here = f"{quantity(found.forward_on_box)} and {quantity(found.inverse_on_box)}"
    everywhere = f"{quantity(found.forward)} and {quantity(found.inverse)}"
    return f"Lip(f) and Lip(f⁻¹) at most {everywhere}; on the data's box {here}"


def gradients_line(found: GradientsSummary) -> str:
    """The angle."""
    angle = "not finite" if math.isnan(found.angle) else f"{found.angle:.1e} degrees"
    return f"memory-saving against stored: {angle}, worst in {found.worst_group}"


def figure(value: float) -> str:
    """A number in short: two digits, `inf` for a lost sample, `-` where nothing was measured."""
    if math.isnan(value):
        return "-"
    return "inf" if math.isinf(value) else "0" if value == 0 else f"{value:.1e}"


def quantity(value: float) -> str:
    """A number of any size in three digits."""
    if math.isnan(value):
        return "-"
    return "∞" if math.isinf(value) else f"{value:.3g}"


def seconds(value: float) -> str:
    """A time in short."""
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"
