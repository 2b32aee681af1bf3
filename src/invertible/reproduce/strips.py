"""Rows of small images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invertible.reports.pictures import BROKEN
from invertible.reproduce.figures import INK


def show(
    figure: Any,  # noqa: ANN401
    rows: Sequence[tuple[str, Tensor]],
    *,
    notes: Sequence[Sequence[str]] | None = None,
    colour: str = INK,
) -> None:
    """Draw rows of images.

    Args:
        figure: a figure of matplotlib, or a part of one.
        rows: a name and images (T, C, H, W) on [0, 1] each, of one T; what is not finite is magenta.
        notes: what stands below the images, if anything does.
        colour: of the notes.
    """
    axes = figure.subplots(len(rows), len(rows[0][1]), squeeze=False)
    for row, (name, images) in enumerate(rows):
        for column, image in enumerate(images):
            place = axes[row, column]
            place.imshow(coloured(image).numpy(), interpolation="nearest")
            place.set(xticks=[], yticks=[])
            for side in place.spines.values():
                side.set_visible(False)
            if notes is not None:
                place.set_xlabel(notes[row][column], fontsize=7.5, color=colour, labelpad=2)
        axes[row, 0].set_ylabel(name, color=INK, fontsize=9)


def coloured(image: Tensor) -> Tensor:
    """(C, H, W) on [0, 1] as (H, W, 3)."""
    pixels = image.detach().double().cpu().nan_to_num(nan=0.0).clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).clone()
    pixels[~image.isfinite().all(0)] = torch.tensor(BROKEN, dtype=torch.float64)
    return pixels


def finite_or_nan(values: Sequence[float]) -> list[float]:
    """Values as curves can be drawn: what is not finite as a gap."""
    return [value if math.isfinite(value) else math.nan for value in values]
