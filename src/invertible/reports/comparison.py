"""Round trips of several models beside each other: a table of figures and a picture of images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from invertible.errors import require


@dataclass(frozen=True)
class Trips:
    """Round trips x -> f(x) -> f^-1(f(x)) of one model on one set of images.

    Attributes:
        errors: relative error a sample, `inf` where something on the way was not finite, shape (N,).
        reconstructions: what came back, (N, C, H, W), not finite where nothing did.
    """

    errors: np.ndarray
    reconstructions: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Several models on one set of images.

    Attributes:
        name: name of the set.
        images: what was sent, (N, C, H, W).
        trips: results by model name.
    """

    name: str
    images: np.ndarray
    trips: dict[str, Trips]


def comparison_rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """A row a set: its name, then median error, worst error and count of lost samples for every model."""
    rows = []
    for comparison in comparisons:
        row = [comparison.name]
        for trips in comparison.trips.values():
            lost = int(np.isinf(trips.errors).sum())
            row += [
                _figure(np.median(trips.errors)),
                _figure(trips.errors.max()),
                f"{lost} of {len(trips.errors)}",
            ]
        rows.append(row)
    return rows


def comparison_figure(
    comparisons: Sequence[Comparison], path: Path, *, columns: int = 3, notes: dict[str, str] | None = None
) -> None:
    """Draw the worst images of every set above their reconstructions; pixels that are lost are red.

    Args:
        comparisons: the sets, from left to right.
        path: where to write the PNG.
        notes: a line to write under a model's name.
        columns: images of each set. They are the samples on which the models do worst, summed over models.
    """
    figures: Any = require("matplotlib.figure", "report")
    models = list(comparisons[0].trips)
    width = columns * len(comparisons)
    figure = figures.Figure(figsize=(0.62 * width + 2.1, 0.78 * (len(models) + 1) + 0.6), dpi=160, facecolor="white")
    grid = figure.add_gridspec(
        len(models) + 1,
        len(comparisons),
        left=0.16,
        right=0.995,
        top=0.91,
        bottom=0.1,
        wspace=0.08,
        hspace=0.42,
    )
    for column, comparison in enumerate(comparisons):
        chosen = _worst(comparison, columns)
        rows = [(None, comparison.images), *((m, comparison.trips[m].reconstructions) for m in models)]
        for row, (model, images) in enumerate(rows):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(_strip(images[chosen], comparison.images[chosen]), interpolation="nearest", aspect="equal")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if row == 0:
                axes.set_title(comparison.name, fontsize=9)
            else:
                axes.set_xlabel(_caption(comparison.trips[str(model)]), fontsize=7, labelpad=2)
            if column == 0:
                label = "input" if model is None else "\n".join(filter(None, (model, (notes or {}).get(model))))
                axes.set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center", wrap=True)
    figure.text(0.995, 0.015, "red: not finite", fontsize=7, ha="right", color="#d62728")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _worst(comparison: Comparison, count: int) -> np.ndarray:
    total = sum(np.log10(np.clip(trips.errors, 1e-12, 1e30)) for trips in comparison.trips.values())
    return np.argsort(-np.asarray(total), kind="stable")[:count]


def _strip(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Images side by side as RGB in the grey range of the reference; what is not finite in red."""
    low, high = np.nanmin(reference), np.nanmax(reference)
    broken = ~np.isfinite(images).all(1)
    grey = (np.nan_to_num(images, nan=0.0, posinf=0.0, neginf=0.0) - low) / max(high - low, 1e-12)
    colour = np.broadcast_to(grey, (len(images), 3, *images.shape[2:])) if images.shape[1] == 1 else grey[:, :3]
    colour = np.clip(colour, 0, 1).transpose(0, 2, 3, 1).copy()
    colour[broken] = (0.84, 0.15, 0.16)
    padded = np.pad(colour, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=1.0)
    return np.concatenate(list(padded), axis=1)[:, :-1]


def _caption(trips: Trips) -> str:
    lost = int(np.isinf(trips.errors).sum())
    finite = trips.errors[np.isfinite(trips.errors)]
    worst = f"worst {finite.max():.0e}" if len(finite) else ""
    return f"{lost} of {len(trips.errors)} lost" if lost else worst


def _figure(value: float) -> str:
    return "lost" if math.isinf(value) else f"{value:.1e}"
