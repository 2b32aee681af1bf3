"""What to do about a failure, chosen by its cause."""

import math

from invertible.stability.records import (
    ADVERSARIAL,
    EXPLOSION,
    IN_DISTRIBUTION,
    ROUNDING,
    UNKNOWN,
    WRONG_INVERSE,
    WRONG_LOG_DET,
    AuditRecord,
    SetRecord,
)

# A block that multiplies an error by more than this does it alone; below, it takes many.
ALONE = 10.0

BOUND_SCALES = (
    "Bound what the blocks can do: scale='half-sigmoid', whose inverse multiplies by 2 at most, and "
    "conditioner_bound=3, so that conditioners do not extrapolate."
)
FEWER = (
    "No block stands out, the product over depth does it: take fewer blocks, additive or residual blocks, or train "
    "with a penalty (stability.FlowPenalty, stability.FiniteDifferencePenalty)."
)
PENALTY = (
    "Train with a penalty on both directions (stability.FiniteDifferencePenalty), which bounds them near the data."
)
IN_FLOAT64 = "Until then invert in float64: model.double(), or stability.checked_inverse(f, y, tolerance)."
WHOLE_FLOAT32 = "This GPU rounds what it multiplies to the 10 bits of TF32: set {} = False, and audit again."
NOT_FLOAT64 = "Float64 alone will not do."
CHECK = (
    "Run invertible.testing.check_bijection on the block named; if its inverse iterates, let it iterate further, to a "
    "smaller tolerance."
)
CHECK_LOG_DET = "Run invertible.testing.check_bijection: a sign, a factor or a sum over the wrong axes in a log_det."
RUN_CONTROL = "Run the audit with control=True on a model that can run in float64, to tell rounding from a mistake."
EXACT = (
    "Do not train this with memory='reversible': use memory='exact', whose reconstructions are bit for bit, or "
    "memory.Reversible(guard=True), which repairs what it cannot reconstruct."
)
OTHER_DATA = "Give the model data from its domain, or widen the domain."
RAISED = "Mend what is raised: errors about values should be a DomainError, which counts as a refusal."
SKIP = "Mend what is raised, or leave the section out by `sections`; the verdict then does not rest on it."


def advice_for(one: SetRecord, record: AuditRecord) -> tuple[str, ...]:
    """What to do about a set that failed, the most lasting cure first."""
    if one.data is None:
        return (RAISED,)
    if one.cause == WRONG_INVERSE:
        return (CHECK,)
    if one.cause == WRONG_LOG_DET:
        return (CHECK_LOG_DET,)
    advice = [BOUND_SCALES if _stands_out(one, record) else FEWER]
    if one.kind in (ADVERSARIAL, IN_DISTRIBUTION) and advice == [BOUND_SCALES]:
        advice.append(PENALTY)
    if record.model.get("tf32") and one.cause in (ROUNDING, UNKNOWN):
        advice.insert(0, WHOLE_FLOAT32.format(" = ".join(record.model["tf32"])))
    advice += {ROUNDING: [IN_FLOAT64], EXPLOSION: [NOT_FLOAT64], UNKNOWN: [RUN_CONTROL]}.get(one.cause, [])
    return tuple(advice)


def _stands_out(one: SetRecord, record: AuditRecord) -> bool:
    """Whether one block is to blame: by what it does to errors, or because nothing bounds its inverse on the data."""
    block = one.worst_block
    if block is None:
        return bool(one.first_loss)
    known = () if record.bounds is None else record.bounds.blocks
    unbounded = any(each.path == block.path and math.isinf(each.inverse) for each in known)
    return unbounded or block.amplification > ALONE or block.lost > 0
