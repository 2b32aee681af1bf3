"""The figures at the end of a run."""

import json
import platform
import re
from pathlib import Path
from typing import Any

import lightning
import torch

from invertible.models import AnyModel
from invertible.training.pictures import write_atomically
from invertible.training.recipe import Recipe

SPLITS = ("train", "validation", "test")
# No more of the training data than shows whether the model has learnt them by heart.
TRAIN_SAMPLES = 10_000


def write_metrics(folder: Path, recipe: Recipe, model: AnyModel, unit: str, results: dict[str, Any]) -> dict[str, Any]:
    """Write `metrics.json`: what was measured, between what was trained and with what.

    Args:
        folder: of the run.
        recipe: the recipe.
        model: what it made.
        unit: of the scores.
        results: step of the best validation, seconds, and an entry a split; no number but finite ones.

    Returns:
        What was written.
    """
    metrics: dict[str, Any] = {"recipe": recipe.name, "unit": unit, "seed": recipe.training.seed, **results}
    metrics["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    metrics["versions"] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
    text = json.dumps(metrics, indent=2, allow_nan=False)
    # A row of a matrix on one line: readable, and a third of the length.
    text = re.sub(
        r"\[[\s\d.,null-]+\]", lambda row: re.sub(r"\s+", " ", row[0]).replace("[ ", "[").replace(" ]", "]"), text
    )
    write_atomically(folder / "metrics.json", f"{text}\n".encode())
    return metrics
