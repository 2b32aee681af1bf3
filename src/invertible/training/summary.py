"""The figures at the end of a run."""

import json
import platform
from pathlib import Path
from typing import Any

import lightning
import torch

from invertible import saving
from invertible.training.checkpoints import MODEL
from invertible.training.datamodule import FlowData
from invertible.training.evaluation import evaluate, unit_of
from invertible.training.pictures import write_atomically
from invertible.training.recipe import Recipe


def write_metrics(
    folder: Path, recipe: Recipe, data: FlowData, best: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """Score the saved model on every split and write `metrics.json`.

    Args:
        folder: of the run, which holds the model.
        recipe: the recipe.
        data: the data.
        best: entries to add: step of the best validation, seconds of training.
        device: where to evaluate.

    Returns:
        What was written: the mean and standard error of each split under its name, both `null` in the file where not
        finite, besides `non_finite`, the number of samples without a finite score.
    """
    flow = saving.load(folder / MODEL, device=device)
    metrics: dict[str, Any] = {"recipe": recipe.name, "unit": unit_of(flow), **best, "seed": recipe.training.seed}
    metrics["parameters"] = sum(parameter.numel() for parameter in flow.parameters())
    for name in ("train", "validation", "test"):
        split = getattr(data.data, name)
        if len(split.x):
            # No more of the training data than shows whether the model has learnt them by heart.
            n = 10_000 if name == "train" else len(split.x)
            labels = data.labels(split)
            size, seed = recipe.data.evaluation_batch_size, recipe.training.seed
            score = evaluate(flow, split.x[:n], None if labels is None else labels[:n], batch_size=size, seed=seed)
            entry = {"mean": score.mean, "standard_error": score.standard_error}
            finite = {key: value if abs(value) < float("inf") else None for key, value in entry.items()}
            metrics[name] = {**finite, "samples": len(score.values), "non_finite": score.non_finite}
    metrics["versions"] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }
    write_atomically(folder / "metrics.json", (json.dumps(metrics, indent=2, allow_nan=False) + "\n").encode())
    return metrics
