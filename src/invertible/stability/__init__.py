"""What judges a bijection. It sees the protocol alone, never the blocks or the models."""

from invertible.stability.audit import audit
from invertible.stability.blockwise import BlockErrors, BlockRoundTrips, block_round_trips
from invertible.stability.findings import Finding, findings, headline
from invertible.stability.out_of_distribution import out_of_distribution
from invertible.stability.record_json import from_dict, to_dict
from invertible.stability.records import (
    FAILED,
    PASSED,
    REFUSED,
    AuditOptions,
    AuditRecord,
    BlockSummary,
    ControlSummary,
    ErrorSummary,
    Examples,
    SetRecord,
)
from invertible.stability.round_trip import Errors, RoundTrip, relative_error, round_trip

__all__ = [
    "FAILED",
    "PASSED",
    "REFUSED",
    "AuditOptions",
    "AuditRecord",
    "BlockErrors",
    "BlockRoundTrips",
    "BlockSummary",
    "ControlSummary",
    "ErrorSummary",
    "Errors",
    "Examples",
    "Finding",
    "RoundTrip",
    "SetRecord",
    "audit",
    "block_round_trips",
    "findings",
    "from_dict",
    "headline",
    "out_of_distribution",
    "relative_error",
    "round_trip",
    "to_dict",
]
