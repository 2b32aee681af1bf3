"""What judges a bijection. It sees the protocol alone, never the blocks or the models."""

from invertible.stability.adapters import adapt
from invertible.stability.angles import Angle, GradientAngles
from invertible.stability.attack import AttackOptions, attack
from invertible.stability.attack_result import AttackResult
from invertible.stability.audit import audit
from invertible.stability.audit_options import EFFORTS, SECTIONS, AuditOptions, Budget
from invertible.stability.blockwise import BlockErrors, BlockRoundTrips, block_round_trips
from invertible.stability.checked import CheckedInverse
from invertible.stability.digits import TrustedDigits, trusted_digits
from invertible.stability.findings import Finding, findings, headline, remedies
from invertible.stability.finite_differences import FiniteDifferencePenalty
from invertible.stability.flow_penalty import FlowPenalty
from invertible.stability.gradients import gradient_angle
from invertible.stability.lipschitz import additive_bounds, lipschitz_bounds, ode_bounds, residual_bounds
from invertible.stability.lipschitz_table import BlockBounds, LipschitzTable
from invertible.stability.out_of_distribution import out_of_distribution
from invertible.stability.passage import relative_error
from invertible.stability.penalties import Penalty
from invertible.stability.record_json import from_dict, to_dict
from invertible.stability.records import (
    ADVERSARIAL,
    FAILED,
    PASSED,
    REFUSED,
    AuditRecord,
    BlockSummary,
    ControlSummary,
    ErrorSummary,
    Examples,
    SetRecord,
)
from invertible.stability.refine import checked_inverse
from invertible.stability.round_trip import Errors, RoundTrip, round_trip
from invertible.stability.sections import AuditInterrupted, Progress
from invertible.stability.spectrum import Spectrum, singular_values
from invertible.stability.summaries import (
    AttackSummary,
    BlockBound,
    BoundsSummary,
    DigitsSummary,
    GradientsSummary,
    SectionRecord,
    SpectrumSummary,
)

__all__ = [
    "ADVERSARIAL",
    "EFFORTS",
    "FAILED",
    "PASSED",
    "REFUSED",
    "SECTIONS",
    "Angle",
    "AttackOptions",
    "AttackResult",
    "AttackSummary",
    "AuditInterrupted",
    "AuditOptions",
    "AuditRecord",
    "BlockBound",
    "BlockBounds",
    "BlockErrors",
    "BlockRoundTrips",
    "BlockSummary",
    "BoundsSummary",
    "Budget",
    "CheckedInverse",
    "ControlSummary",
    "DigitsSummary",
    "ErrorSummary",
    "Errors",
    "Examples",
    "Finding",
    "FiniteDifferencePenalty",
    "FlowPenalty",
    "GradientAngles",
    "GradientsSummary",
    "LipschitzTable",
    "Penalty",
    "Progress",
    "RoundTrip",
    "SectionRecord",
    "SetRecord",
    "Spectrum",
    "SpectrumSummary",
    "TrustedDigits",
    "adapt",
    "additive_bounds",
    "attack",
    "audit",
    "block_round_trips",
    "checked_inverse",
    "findings",
    "from_dict",
    "gradient_angle",
    "headline",
    "lipschitz_bounds",
    "ode_bounds",
    "out_of_distribution",
    "relative_error",
    "remedies",
    "residual_bounds",
    "round_trip",
    "singular_values",
    "to_dict",
    "trusted_digits",
]
