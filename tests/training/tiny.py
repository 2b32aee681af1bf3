"""Recipes that train in a second."""

import copy
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from invertible.training import Recipe, RunOptions, RunResult, parse_recipe, run
from invertible.training.records import read_history

DIGITS = {
    "name": "tiny-digits",
    "model": {"name": "glow", "arguments": {"levels": 1, "depth": 1, "hidden": 4}},
    "data": {"name": "digits", "options": {"limit": 160}, "batch_size": 32, "flip": True},
    "optimizer": {"lr": 5e-3},
    "schedule": {"name": "cosine", "warmup": 3},
    "training": {"epochs": 4, "ema": 0.9, "gradient_clip": 50.0, "samples_every": 0, "checkpoint_every": 3},
}
MOONS = {
    "name": "tiny-moons",
    "model": {"name": "realnvp", "arguments": {"layers": 2, "hidden": [8]}},
    "data": {"name": "moons", "options": {"samples": 400}, "batch_size": 64},
    "training": {"epochs": 3, "samples_every": 0, "checkpoint_every": 2},
}
# Label smoothing, mixup, cuts, weight decay by groups: what a resumed run has to repeat.
REVNET = {
    "name": "tiny-revnet",
    "model": {"name": "revnet", "arguments": {"units": [1, 1], "filters": [8, 8, 16], "momentum": 0.1}},
    "data": {"name": "digits", "options": {"limit": 160}, "batch_size": 32, "crop_padding": 1},
    "optimizer": {"name": "sgd", "lr": 0.05, "weight_decay": 1e-3, "nesterov": True, "decay": "weights"},
    "schedule": {"name": "milestones", "at": [12, 16], "factor": 0.1},
    "training": {"epochs": 4, "ema": 0.5, "gradient_clip": 5.0, "checkpoint_every": 3},
    "classification": {"label_smoothing": 0.1, "mixup": 0.2},
}
# Bijective, with dropout.
IREVNET = {
    "name": "tiny-irevnet",
    "model": {
        "name": "irevnet",
        "arguments": {
            "squeeze": 2, "blocks": [2, 2], "channels": [8, 32], "strides": [2, 2], "hidden": [16, 32], "dropout": 0.1,
        },
    },
    "data": {"name": "digits", "options": {"limit": 160}, "batch_size": 32},
    "optimizer": {"name": "sgd", "lr": 0.05},
    "training": {"epochs": 4, "checkpoint_every": 3},
}  # fmt: skip


def recipe(raw: dict, *overrides: str) -> Recipe:
    return parse_recipe(copy.deepcopy(raw), overrides)


def train(
    raw: dict, folder: Path, *overrides: str, resume: str | None = None, callbacks: tuple[Callback, ...] = ()
) -> RunResult:
    options = RunOptions(accelerator="cpu", quiet=True, callbacks=callbacks)
    return run(recipe(raw, *overrides), folder, resume=resume, options=options)


def curves(folder: Path) -> list[dict[str, str]]:
    """The history without what a clock wrote."""
    return [
        {key: value for key, value in row.items() if key != "seconds"} for row in read_history(folder / "history.csv")
    ]
