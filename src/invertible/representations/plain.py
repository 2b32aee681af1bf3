"""Results as dictionaries that strict JSON can hold."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def plain(value: Any, *, leave_out: tuple[str, ...] = ()) -> Any:  # noqa: ANN401
    """Dataclasses as dictionaries, tensors as nested lists; numbers that are not finite as `None`.

    Args:
        value: a dataclass, tensor, number, string, or tuples and lists of them.
        leave_out: names of fields to leave out.
    """
    match value:
        case Tensor():
            return plain(value.tolist())
        case bool() | int() | str() | None:
            return value
        case float():
            return value if math.isfinite(value) else None
        case list() | tuple():
            return [plain(each, leave_out=leave_out) for each in value]
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.name not in leave_out]
        return {name: plain(getattr(value, name), leave_out=leave_out) for name in names}
    return str(value)
