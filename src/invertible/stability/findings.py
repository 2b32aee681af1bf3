"""What an audit found, in plain words."""

from dataclasses import dataclass

from invertible.stability.audit_options import ATTACK, GRADIENTS, SPECTRUM
from invertible.stability.records import (
    EXPLOSION,
    FAILED,
    IN_DISTRIBUTION,
    LARGEST_ANGLE,
    REFUSED,
    ROUNDING,
    WRONG_INVERSE,
    WRONG_LOG_DET,
    AuditRecord,
    ControlSummary,
    SetRecord,
)
from invertible.stability.remedies import CHECK_LOG_DET, EXACT, FEWER, OTHER_DATA, SKIP, advice_for
from invertible.stability.summaries import BROKEN, SpectrumSummary

# An error this much above the float64 control's is rounding; one that float64 leaves nearly as it is, is not.
APPROXIMATE, NEGLIGIBLE = 1e-3, 1e-9


@dataclass(frozen=True)
class Finding:
    """What was found on one set or in one section, and what to do about it.

    Attributes:
        level: `failure` (decides the verdict), `warning` (a failure that does not) or `note`.
        subject: name of the set or the section.
        text: what breaks, where, on which inputs, how far, and why, in plain words.
        advice: what to do, the most lasting cure first; empty if there is nothing to do.
    """

    level: str
    subject: str
    text: str
    advice: tuple[str, ...] = ()

    @property
    def remedy(self) -> str:
        """The advice in one text."""
        return " ".join(self.advice)


def findings(record: AuditRecord) -> tuple[Finding, ...]:
    """What there is to say: failures first, then warnings, then notes."""
    found = [each for one in record.sets for each in _of_set(one, record)]
    found += [*_of_log_dets(record), *_of_digits(record), *_of_gradients(record), *_of_sections(record)]
    order = ("failure", "warning", "note")
    return tuple(sorted(found, key=lambda finding: order.index(finding.level)))


def headline(record: AuditRecord) -> str:
    """The verdict in one sentence."""
    failed = [each for each in record.sets if each.status == FAILED]
    deciding = [each.name for each in failed if each.required]
    others = [each.subject for each in findings(record) if each.level == "failure"]
    others = [each for each in dict.fromkeys(others) if each not in {one.name for one in record.sets}]
    if record.interrupted:
        return f"Interrupted after {_count(len(record.sets), 'set')}: nothing is decided."
    if record.passed and not failed:
        measured = [each for each in record.sets if each.status != REFUSED]
        worst = max(measured, key=lambda each: each.worst)
        return (
            f"The inverse held on all {len(measured)} sets: worst relative error {worst.worst:.1e} ({worst.name}), "
            f"tolerance {record.options.tolerance:g}."
        )
    if deciding:
        return f"The inverse cannot be trusted on {len(deciding)} of {len(record.sets)} sets: {_listed(deciding)}."
    if record.passed:
        return f"The inverse held on the required sets; it did not on {_listed([each.name for each in failed])}."
    if others:
        return f"The round trips held, but not all that the verdict rests on: {_listed(others)}."
    return "The model refuses its own data: nothing could be measured on them."


def remedies(record: AuditRecord) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each thing to do, and the subjects of the findings that ask for it."""
    found: dict[str, list[str]] = {}
    for each in findings(record):
        for advice in each.advice:
            found.setdefault(advice, []).append(each.subject)
    return tuple((text, tuple(dict.fromkeys(subjects))) for text, subjects in found.items())


def _of_set(one: SetRecord, record: AuditRecord) -> list[Finding]:
    if one.status == REFUSED:
        level = "failure" if one.required and one.kind == IN_DISTRIBUTION else "note"
        reason = f" The model says: {one.message}" if one.message else ""
        text = f"All of {one.name} lies outside the model's domain and is refused, not silently mistreated.{reason}"
        return [Finding(level, one.name, text, (OTHER_DATA,) if level == "failure" else ())]
    found = []
    if one.refused:
        text = f"{one.refused} of {one.samples} samples of {one.name} lie outside the model's domain and are refused."
        found.append(Finding("note", one.name, text))
    if one.status == FAILED:
        text = _failure(one, record.options.tolerance)
        found.append(Finding("failure" if one.required else "warning", one.name, text, advice_for(one, record)))
    elif one.control is not None and one.control.median > max(APPROXIMATE * one.control.before, NEGLIGIBLE):
        text = (
            f"The error on {one.name}, within the tolerance, is not rounding: float64 leaves it at "
            f"{one.control.median:.1e} (from {one.control.before:.1e}). The inverse or its log-determinant is "
            "approximate."
        )
        found.append(Finding("note", one.name, text))
    return found


def _of_log_dets(record: AuditRecord) -> list[Finding]:
    """Disagreements of log-determinants with singular values: of them no round trip can tell."""
    wrong: list[SpectrumSummary] = [each for each in record.spectrum if each.log_det_error > each.log_det_rounding]
    if not wrong:
        return []
    worst = max(wrong, key=lambda each: each.log_det_error)
    text = (
        f"The log-determinant is wrong: on {worst.set} it misses log|det| of the Jacobian, as autograd has it, by "
        f"{_figure(worst.log_det_error)} nats per dimension, where rounding explains "
        f"{_figure(worst.log_det_rounding)}. Likelihoods are off by as much."
    )
    return [Finding("failure" if record.wrong_log_det else "note", SPECTRUM, text, (CHECK_LOG_DET,))]


def _of_digits(record: AuditRecord) -> list[Finding]:
    """Sets whose round trips hold, and whose inverse is off all the same: errors of both directions can cancel."""
    passed = {each.name: each for each in record.sets if each.status != FAILED}
    found = []
    for each in record.digits:
        if each.set in passed and each.measured > record.options.tolerance:
            text = (
                f"Round trips of {each.set} come back, but the inverse itself is off: up to {_figure(each.measured)} "
                "from that of float64, for the same latents. The errors of both directions cancel."
            )
            found.append(Finding("warning", each.set, text, advice_for(passed[each.set], record)))
    return found


def _of_gradients(record: AuditRecord) -> list[Finding]:
    found = record.gradients
    if found is None or found.angle <= LARGEST_ANGLE:
        return []
    if not found.stored_finite:
        text = "The gradient of the likelihood is not finite on the worst test samples, with stored activations either."
        return [Finding("warning", GRADIENTS, text, (FEWER,))]
    how = f"points {found.angle:.2g} degrees away from the true one"
    if not found.angle > LARGEST_ANGLE:
        how = f"is not finite in {_count(found.non_finite, 'group')} of parameters"
    text = f"With memory-saving training the gradient {how}; {found.worst_group} is worst ({found.memory})."
    return [Finding("failure" if found.trains_so else "warning", GRADIENTS, text, (EXACT,))]


def _of_sections(record: AuditRecord) -> list[Finding]:
    return [
        Finding(
            "failure" if record.undecided and each.name == ATTACK else "warning",
            each.name,
            f"The section {each.name} broke off by an error: {each.message}",
            (SKIP,),
        )
        for each in record.sections
        if each.status == BROKEN
    ]


def _failure(one: SetRecord, tolerance: float) -> str:
    if one.data is None:
        return f"The model raises an error on {one.name}, so that nothing could be measured: {one.message}"
    lost = f", first in {one.first_loss}" if one.first_loss and one.non_finite else ""
    return f"{_what(one, tolerance)}{lost}. {_where(one, tolerance)}{_why(one)}"


def _what(one: SetRecord, tolerance: float) -> str:
    if one.non_finite:
        sides = [each for each in (one.data, one.latent) if each is not None]
        side = max(sides, key=lambda each: each.non_finite)
        count = one.samples - one.refused
        verb = "does" if one.non_finite == 1 else "do"
        which = f"{one.non_finite} of {count} samples {verb} not come"
        if one.non_finite == count:
            which = f"none of {count} samples comes"
        raised = f" ({side.raised} raised an error)" if side.raised else ""
        return f"The inverse is lost on {one.name}: {which} back finite{raised}"
    if one.worst > tolerance:
        sides = {"x → z → x": one.data, "z → x → z": one.latent}
        known = {name: side for name, side in sides.items() if side is not None}
        way, side = max(known.items(), key=lambda each: each[1].worst)
        over = sum(max(errors) > tolerance for errors in zip(*(each.errors for each in known.values()), strict=True))
        return (
            f"The inverse is inaccurate on {one.name}: {over} of {len(side.errors)} samples above the tolerance, "
            f"relative error up to {_figure(side.worst)} ({way}, sample {side.worst_sample})"
        )
    return (
        f"The log-determinants of the two directions disagree on {one.name}, by up to {_figure(one.log_det_worst)} "
        "per dimension"
    )


def _where(one: SetRecord, tolerance: float) -> str:
    block = one.worst_block
    if block is None or not (one.non_finite or one.worst > tolerance):
        return ""
    if one.cause == WRONG_INVERSE:
        return f"The worst block is {block.path}, wrong by {_figure(block.own_control)} on its own. "
    if not one.first_loss and block.amplification > 1:
        factor = f"{block.amplification:.2g}"
        return f"{block.path} multiplies the error by {factor} on the way back, more than any other. "
    return ""


def _why(one: SetRecord) -> str:
    control = one.control
    if control is None:
        return "There is no control in float64 to tell the cause."
    samples = f"the {control.samples} worst" if control.samples > 1 else "the worst sample"
    figures = f"median {_figure(control.median)}, worst {_figure(control.worst)}"
    after = figures if control.samples > 1 else _figure(control.worst)
    if control.non_finite:
        return f"{_lost_again(control)}: the model overflows or amplifies beyond 16 digits, or its inverse is wrong."
    reason = {
        ROUNDING: "rounding, amplified",
        EXPLOSION: "errors are amplified beyond what it resolves",
        WRONG_INVERSE: "the inverse is wrong, or its iteration stops too early",
        WRONG_LOG_DET: "one of the log-determinants is wrong",
    }.get(one.cause)
    verb = "brings" if one.cause == ROUNDING else "leaves"
    word = "down to" if one.cause == ROUNDING else "at"
    return f"Float64 {verb} {samples} {word} {after}{'' if reason is None else f': {reason}'}."


def _lost_again(control: ControlSummary) -> str:
    if control.samples == 1:
        return "Float64 loses it as well"
    share = "" if control.non_finite == control.samples else f"{control.non_finite} of "
    return f"Float64 loses {share}the {control.samples} worst as well"


def _figure(value: float) -> str:
    return f"{value:.1e}" if value < float("inf") else "not finite"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _listed(names: list[str]) -> str:
    """Names as a sentence has them, the first six."""
    if len(names) > 7:
        names = [*names[:6], f"{len(names) - 6} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
