"""The record of an audit as dictionaries that strict JSON can hold, and back.

A figure that is not finite is `null`, for JSON knows neither NaN nor infinity. Errors are then infinite, the error
of a lost sample, and stand beside the count of those; -1 marks a figure that was not measured.
"""

import base64
import math
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from invertible.errors import DataError
from invertible.stability.audit_options import AuditOptions, Budget
from invertible.stability.records import (
    SCHEMA_VERSION,
    AuditRecord,
    BlockSummary,
    ControlSummary,
    ErrorSummary,
    Examples,
    SetRecord,
)
from invertible.stability.summaries import (
    AttackSummary,
    BlockBound,
    BoundsSummary,
    DigitsSummary,
    GradientsSummary,
    SectionRecord,
    SpectrumSummary,
)

Summary = TypeVar("Summary")


def to_dict(record: AuditRecord) -> dict[str, Any]:
    """The record as dictionaries, lists, strings, finite numbers and `None`; samples as base64 of float32."""
    return _plain(_dictionary(record))


def from_dict(record: Any) -> AuditRecord:  # noqa: ANN401
    """The record that `to_dict` wrote.

    Raises:
        DataError: if it is of another schema version, or a part is missing.
    """
    version = record.get("schema_version") if isinstance(record, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"audit: expected a record of schema version {SCHEMA_VERSION}, got {version!r}. Run the audit again."
        )
    try:
        sets = tuple(_set_record(each) for each in record["sets"])
        budget = record["budget"] | {"temperatures": tuple(record["budget"]["temperatures"])}
        parts: dict[str, Any] = {"options": AuditOptions(**record["options"]), "budget": Budget(**budget), "sets": sets}
        return AuditRecord(**(record | _sections(record) | parts))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"audit: expected a whole record, got one that cannot be read: {type(error).__name__}: {error}. "
            "Run the audit again."
        ) from error


def _dictionary(record: AuditRecord) -> dict[str, Any]:
    sets = [
        {field.name: getattr(each, field.name) for field in fields(each) if field.name != "examples"}
        | {"examples": None if each.examples is None else _encoded(each.examples)}
        for each in record.sets
    ]
    return {field.name: getattr(record, field.name) for field in fields(record)} | {"sets": sets}


def _plain(value: Any) -> Any:  # noqa: ANN401
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case None | bool() | int() | str():
            return value
        case AuditOptions() | Budget():
            return _plain(asdict(value))
    if is_dataclass(value):
        found = {field.name: getattr(value, field.name) for field in fields(value)}
        return {name: -1 if each != each else _plain(each) for name, each in found.items()}
    return str(value)


def _set_record(record: dict[str, Any]) -> SetRecord:
    parts: dict[str, Any] = {
        name: None if record[name] is None else _summary(kind, record[name])
        for name, kind in (("data", ErrorSummary), ("latent", ErrorSummary), ("control", ControlSummary))
    }
    parts["blocks"] = tuple(_summary(BlockSummary, each) for each in record["blocks"])
    parts["examples"] = None if record["examples"] is None else _decoded(record["examples"])
    return SetRecord(**(record | parts))


def _sections(record: dict[str, Any]) -> dict[str, Any]:
    kinds = {"attack": AttackSummary, "bounds": BoundsSummary, "gradients": GradientsSummary}
    found: dict[str, Any] = {
        name: None if record[name] is None else _summary(kind, record[name]) for name, kind in kinds.items()
    }
    for name, kind in (("sections", SectionRecord), ("digits", DigitsSummary), ("spectrum", SpectrumSummary)):
        found[name] = tuple(_summary(kind, each) for each in record[name])
    return found


def _summary(kind: type[Summary], record: dict[str, Any]) -> Summary:
    """A summary from its dictionary; which figures may be infinite or not measured, its annotations tell."""
    values = dict(record)
    for field in fields(kind):  # pyright: ignore[reportArgumentType]
        value = record[field.name]
        if field.type is float:
            values[field.name] = _figure(value)
        elif field.type in (tuple[float, ...], tuple[float, float]):
            values[field.name] = tuple(_figure(each) for each in value)
        elif field.type == tuple[BlockBound, ...]:
            values[field.name] = tuple(_summary(BlockBound, each) for each in value)
    return kind(**values)


def _figure(value: float | None) -> float:
    return math.inf if value is None else math.nan if value == -1 else float(value)


def _encoded(examples: Examples) -> dict[str, Any]:
    def packed(x: Tensor) -> str:
        return base64.b64encode(x.contiguous().numpy().astype("<f4").tobytes()).decode("ascii")

    return {
        "samples": list(examples.samples),
        "shape": list(examples.start.shape),
        "encoding": "base64 of float32, little endian, row-major",
        "start": packed(examples.start),
        "back": packed(examples.back),
        "origin": None if examples.origin is None else packed(examples.origin),
    }


def _decoded(record: dict[str, Any]) -> Examples:
    def unpacked(text: str) -> Tensor:
        return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float32).reshape(record["shape"])

    origin = None if record["origin"] is None else unpacked(record["origin"])
    return Examples(tuple(record["samples"]), unpacked(record["start"]), unpacked(record["back"]), origin)
