"""Training: recipes, a Lightning module for flows, and runs that can be interrupted and resumed.

Needs the extra `train`. What is imported here loads Lightning only when it is first used.
"""

import importlib
from typing import Any

from invertible.errors import require

# Name -> the module that defines it, and the optional package that this module needs.
_LAZY = {
    "Recipe": ("recipe", "pydantic"),
    "Optimizer": ("recipe", "pydantic"),
    "Schedule": ("recipe", "pydantic"),
    "FiniteDifferences": ("recipe", "pydantic"),
    "Monitor": ("recipe", "pydantic"),
    "read_recipe": ("reading", "pydantic"),
    "parse_recipe": ("reading", "pydantic"),
    "FlowModule": ("module", "lightning"),
    "MovingAverage": ("average", "lightning"),
    "PenaltyCallback": ("penalties", "lightning"),
    "InverseMonitor": ("monitor", "lightning"),
    "InverseCheck": ("inverse_check", "torch"),
    "check_inverse": ("inverse_check", "torch"),
    "RunOptions": ("runs", "lightning"),
    "RunResult": ("runs", "lightning"),
    "run": ("runs", "lightning"),
    "Score": ("evaluation", "torch"),
    "evaluate": ("evaluation", "torch"),
    "sample_image": ("pictures", "torch"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _LAZY:
        raise AttributeError(f"module 'invertible.training' has no attribute {name!r}")
    module, package = _LAZY[name]
    require(package, "train")
    return getattr(importlib.import_module(f"invertible.training.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
