"""What an audit found, in plain words."""

from dataclasses import dataclass

from invertible.stability.records import (
    EXPLOSION,
    FAILED,
    IN_DISTRIBUTION,
    REFUSED,
    ROUNDING,
    WRONG_INVERSE,
    WRONG_LOG_DET,
    AuditRecord,
    ControlSummary,
    SetRecord,
)

# An error this much above the float64 control's is rounding; one that float64 leaves nearly as it is, is not.
APPROXIMATE, NEGLIGIBLE = 1e-3, 1e-9


@dataclass(frozen=True)
class Finding:
    """One sentence about one set.

    Attributes:
        level: `failure` (decides the verdict), `warning` (a failure that does not) or `note`.
        subject: name of the set.
        text: the sentence.
    """

    level: str
    subject: str
    text: str


def findings(record: AuditRecord) -> tuple[Finding, ...]:
    """What there is to say about the sets: failures first, then warnings, then notes."""
    found = [each for one in record.sets for each in _of_set(one, record.options.tolerance)]
    order = ("failure", "warning", "note")
    return tuple(sorted(found, key=lambda finding: order.index(finding.level)))


def headline(record: AuditRecord) -> str:
    """The verdict in one sentence."""
    measured = [each for each in record.sets if each.status != REFUSED]
    failed = [each for each in record.sets if each.status == FAILED]
    if record.passed and not failed:
        worst = max(measured, key=lambda each: each.worst)
        return (
            f"The inverse held on all {len(measured)} sets: worst relative error {worst.worst:.1e} ({worst.name}), "
            f"tolerance {record.options.tolerance:g}."
        )
    deciding = [each for each in failed if each.required]
    if deciding:
        names = _listed([each.name for each in deciding])
        return f"The inverse cannot be trusted on {len(deciding)} of {len(record.sets)} sets: {names}."
    if record.passed:
        return f"The inverse held on the required sets; it did not on {_listed([each.name for each in failed])}."
    return "The model refuses its own data: nothing could be measured on them."


def _of_set(one: SetRecord, tolerance: float) -> list[Finding]:
    if one.status == REFUSED:
        level = "failure" if one.required and one.kind == IN_DISTRIBUTION else "note"
        reason = f" The model says: {one.message}" if one.message else ""
        text = f"All of {one.name} lies outside the model's domain and is refused, not silently mistreated.{reason}"
        return [Finding(level, one.name, text)]
    found = []
    if one.refused:
        text = f"{one.refused} of {one.samples} samples of {one.name} lie outside the model's domain and are refused."
        found.append(Finding("note", one.name, text))
    if one.status == FAILED:
        found.append(Finding("failure" if one.required else "warning", one.name, _failure(one, tolerance)))
    elif one.control is not None and one.control.median > max(APPROXIMATE * one.control.before, NEGLIGIBLE):
        text = (
            f"The error on {one.name}, within the tolerance, is not rounding: float64 leaves it at "
            f"{one.control.median:.1e} (from {one.control.before:.1e}). The inverse or its log-determinant is "
            "approximate."
        )
        found.append(Finding("note", one.name, text))
    return found


def _failure(one: SetRecord, tolerance: float) -> str:
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
        direction = "x → z → x" if one.data is not None and one.data.worst == one.worst else "z → x → z"
        return f"The inverse is inaccurate on {one.name}: relative error up to {_figure(one.worst)} ({direction})"
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
        factor = _figure(block.amplification)
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


def _listed(names: list[str]) -> str:
    """Names as a sentence has them, the first six."""
    if len(names) > 7:
        names = [*names[:6], f"{len(names) - 6} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
