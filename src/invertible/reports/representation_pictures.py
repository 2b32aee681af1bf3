"""Strips of images: interpolations between features, beside those between pixels."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from invertible.errors import ShapeError
from invertible.reports.representation_style import INK, MUTED, RED, figure_style
from invertible.reports.svg import new_figure
from invertible.representations import Interpolation

# Magenta marks what is not finite, as in the pictures of an audit.
BROKEN = (1.0, 0.0, 0.85)


def interpolation_plot(found: Interpolation) -> Any:  # noqa: ANN401
    """Two rows a pair, of features and of pixels, as a matplotlib figure.

    Below each image stands the probability of the two classes, of a classifier; and how far features are off the range,
    where that is more than rounding.

    Raises:
        ShapeError: if the samples are no images of one or three channels.
    """
    pairs, steps = found.finite.shape
    if not found.of_images:
        raise ShapeError(
            "interpolation_plot: expected images of shape (pairs, steps, 1 or 3, height, width), got "
            f"{tuple(found.images.shape)}."
        )
    with figure_style():
        figure = new_figure(0.95 * steps + 0.8, pairs * 2.35 + 0.3)
        axes = figure.subplots(2 * pairs, steps, squeeze=False)
        for pair in range(pairs):
            rows = ((found.images, found.probabilities), (found.pixels, found.pixel_probabilities))
            for kind, (strip, chances) in enumerate(rows):
                for step in range(steps):
                    one = axes[2 * pair + kind, step]
                    _show(one, strip[pair, step])
                    one.set_xlabel(*_note(found, chances, pair, step, features=not kind))
            axes[2 * pair, 0].set_ylabel("features", color=INK)
            axes[2 * pair + 1, 0].set_ylabel("pixels", color=INK)
        for step, weight in enumerate(found.weights.tolist()):
            axes[0, step].set_title(f"t = {weight:.2g}", loc="center", fontsize=8.5, color=MUTED)
        for one in axes.flatten():
            one.xaxis.label.set(fontsize=7.5, color=MUTED)
    return figure


def _show(axes: Any, image: Tensor) -> None:  # noqa: ANN401
    colours = image.double().nan_to_num(nan=0.0).clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).clone()
    colours[~image.isfinite().all(0)] = torch.tensor(BROKEN, dtype=torch.float64)
    axes.imshow(colours.numpy(), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def _note(
    found: Interpolation, chances: Tensor | None, pair: int, step: int, *, features: bool
) -> tuple[str, dict[str, Any]]:
    """What stands below an image."""
    if features and not bool(found.finite[pair, step]):
        return "not finite", {"color": RED}
    lines = []
    if chances is not None and found.classes is not None:
        names, values = found.classes[pair].tolist(), chances[pair, step].tolist()
        lines.append("  ".join(f"{name}: {value:.2f}" for name, value in zip(names, values, strict=True)))
    off = float(found.off_range[pair, step])
    if features and math.isfinite(off) and off > 1e-3:
        lines.append(f"off {off:.0%}")
    return "\n".join(lines), {}
