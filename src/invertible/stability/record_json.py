"""The record of an audit as dictionaries that strict JSON can hold, and back.

A figure that is not finite is `null`, for JSON knows neither NaN nor infinity. Errors are then infinite, the error
of a lost sample, and stand beside the count of those; -1 marks a block's figure that was not measured.
"""

import base64
import math
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor

from invertible.errors import DataError
from invertible.stability.records import (
    SCHEMA_VERSION,
    AuditOptions,
    AuditRecord,
    BlockSummary,
    ControlSummary,
    ErrorSummary,
    Examples,
    SetRecord,
)


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
        options = record["options"] | {"temperatures": tuple(record["options"]["temperatures"])}
        sets = tuple(_set_record(each) for each in record["sets"])
        return AuditRecord(**record | {"options": AuditOptions(**options), "sets": sets})
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
        case BlockSummary():
            return {name: -1 if each != each else _plain(each) for name, each in asdict(value).items()}
        case AuditOptions() | ErrorSummary() | ControlSummary():
            return _plain(asdict(value))
    return str(value)


def _set_record(record: dict[str, Any]) -> SetRecord:
    summaries: dict[str, Any] = {
        name: None if record[name] is None else _summary(record[name]) for name in ("data", "latent")
    }
    control = None if record["control"] is None else _control(record["control"])
    blocks = tuple(_block(each) for each in record["blocks"])
    examples = None if record["examples"] is None else _decoded(record["examples"])
    summaries |= {"control": control, "blocks": blocks, "examples": examples}
    return SetRecord(**(record | summaries))


def _error(value: float | None) -> float:
    return math.inf if value is None else float(value)


def _summary(record: dict[str, Any]) -> ErrorSummary:
    figures: dict[str, Any] = {
        name: _error(record[name]) for name in ("median", "worst", "worst_in_eps", "log_det_median", "log_det_worst")
    }
    figures["errors"] = tuple(_error(each) for each in record["errors"])
    return ErrorSummary(**(record | figures))


def _control(record: dict[str, Any]) -> ControlSummary:
    figures: dict[str, Any] = {name: _error(record[name]) for name in ("before", "before_worst", "median", "worst")}
    return ControlSummary(**record | figures)


def _block(record: dict[str, Any]) -> BlockSummary:
    figures: dict[str, Any] = {
        name: math.nan if value == -1 else _error(value)
        for name, value in record.items()
        if name not in ("path", "lost")
    }
    return BlockSummary(**record | figures)


def _encoded(examples: Examples) -> dict[str, Any]:
    def packed(x: Tensor) -> str:
        return base64.b64encode(x.contiguous().numpy().astype("<f4").tobytes()).decode("ascii")

    return {
        "samples": list(examples.samples),
        "shape": list(examples.start.shape),
        "encoding": "base64 of float32, little endian, row-major",
        "start": packed(examples.start),
        "back": packed(examples.back),
    }


def _decoded(record: dict[str, Any]) -> Examples:
    def unpacked(text: str) -> Tensor:
        return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float32).reshape(record["shape"])

    return Examples(tuple(record["samples"]), unpacked(record["start"]), unpacked(record["back"]))
