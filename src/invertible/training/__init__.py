"""Training: recipes, Lightning modules for models of all kinds, and runs that can be interrupted and resumed.

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
    "FiniteDifferences": ("safeguards", "pydantic"),
    "Monitor": ("safeguards", "pydantic"),
    "read_recipe": ("reading", "pydantic"),
    "parse_recipe": ("reading", "pydantic"),
    "Classification": ("recipe", "pydantic"),
    "Stream": ("data_sections", "pydantic"),
    "Reconstruction": ("reconstruction_sections", "pydantic"),
    "Scans": ("reconstruction_sections", "pydantic"),
    "Simulate": ("reconstruction_sections", "pydantic"),
    "FlowModule": ("module", "lightning"),
    "ClassifierModule": ("classifier_module", "lightning"),
    "ClassifierData": ("classifier_data", "lightning"),
    "StreamedImages": ("streaming", "lightning"),
    "ReconstructionModule": ("reconstruction_module", "lightning"),
    "ScanData": ("scan_data", "lightning"),
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
    "ClassificationScore": ("classification", "torch"),
    "evaluate_classifier": ("classification", "torch"),
    "ReconstructionScore": ("reconstruction", "torch"),
    "VolumeScore": ("reconstruction", "torch"),
    "evaluate_reconstructor": ("reconstruction", "torch"),
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
