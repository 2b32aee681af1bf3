"""Pictures of the training of a model that reconstructs: its curves, and what it makes of a few slices."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from invertible.errors import require
from invertible.image_metrics import structural_similarity
from invertible.training.plot_style import (
    INK,
    SETTINGS,
    TRAIN,
    VALIDATION,
    finish,
    log_or_linear,
    mark_best,
    means,
    new_figure,
    write_figure,
)

# Not those of training and validation.
HUES = ("#2a9d6f", "#8f63d2", "#d64550", "#7a808a")
COLUMNS = ("zero-filled", "reconstruction", "truth", "error of zero-filled", "error of reconstruction")
TITLES = {"ssim": "SSIM, validation data", "psnr": "PSNR in dB, validation data"}


@dataclass(frozen=True, eq=False)
class Panel:
    """One slice to draw.

    Attributes:
        label: what it is.
        zero_filled: magnitudes (h, w).
        reconstruction: magnitudes (h, w).
        target: magnitudes (h, w).
        maximum: of its volume.
    """

    label: str
    zero_filled: Tensor
    reconstruction: Tensor
    target: Tensor
    maximum: float


def plot_progress(
    history: Sequence[dict[str, str]], best_step: int, zero_filled: dict[str, dict[str, float]], path: Path
) -> None:
    """Draw the loss, and SSIM and PSNR of the validation at each acceleration, over the epochs.

    Args:
        history: rows of a `history.csv`.
        best_step: of the model that was saved.
        zero_filled: SSIM and PSNR of the zero-filled images by acceleration, drawn as dashed lines.
        path: of the PNG.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    with require("matplotlib", "train").rc_context(SETTINGS):
        figure = new_figure(10.8, 3.4)
        loss, *others = figure.subplots(1, 3)
        epochs: list[float] = []
        for name, colour in (("train", TRAIN), ("validation", VALIDATION)):
            epochs, values = means(history, name)
            loss.plot(epochs, values, color=colour, linewidth=1.8, label=name)
        mark_best(loss, history, best_step, label="best model")
        finish(loss, "loss", ticks=epochs)
        log_or_linear(loss)
        for axes, (metric, title) in zip(others, TITLES.items(), strict=True):
            for hue, (acceleration, values) in zip(HUES * len(zero_filled), zero_filled.items(), strict=False):
                labels = (acceleration, f"{acceleration}, zero-filled") if axes is others[0] else (None, None)
                curve = means(history, f"validation_{metric}_{acceleration}")
                axes.plot(*curve, color=hue, linewidth=1.8, label=labels[0])
                axes.axhline(values[metric], color=hue, linewidth=1, linestyle=":", label=labels[1])
            mark_best(axes, history, best_step)
            finish(axes, title, ticks=epochs)
        figure.legend(loc="outside lower center", ncols=3 + 2 * len(zero_filled), frameon=False, labelcolor=INK)
        write_figure(figure, path)


def plot_panels(panels: Sequence[Panel], title: str, path: Path) -> None:
    """Draw slices: zero-filled, reconstruction and truth on one grey scale, and both errors on one scale of their own.

    Args:
        panels: one a row.
        title: of the figure; says whether k-space was simulated.
        path: of the PNG.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    amplification = amplified(panels)
    with require("matplotlib", "train").rc_context(SETTINGS):
        figure = new_figure(9.6, 0.7 + 2.1 * len(panels))
        axes = figure.subplots(len(panels), len(COLUMNS), squeeze=False)
        for row, panel in zip(axes, panels, strict=True):
            _row(row, panel, amplification)
            row[0].set_ylabel(panel.label, color=INK, fontsize=8)
        for column, name in zip(axes[0], COLUMNS, strict=True):
            error = f", x {amplification}" if name.startswith("error") else ""
            column.set_title(f"{name}{error}\n{column.get_title()}", fontsize=8.5, color=INK)
        figure.suptitle(title, fontsize=9.5, color=INK, x=0.01, ha="left")
        write_figure(figure, path)


def amplified(panels: Sequence[Panel]) -> int:
    """By how much errors are brightened: so that one pixel in 200 of a reconstruction is beyond; 1 to 20."""
    errors = [(each.reconstruction - each.target).abs().flatten() / each.maximum for each in panels]
    largest = max(float(each.kthvalue(max(1, int(0.995 * len(each)))).values) for each in errors)
    return max(1, min(20, int(1 / max(largest, 1e-6))))


def _row(row: Any, panel: Panel, amplification: int) -> None:  # noqa: ANN401
    images = (panel.zero_filled, panel.reconstruction, panel.target)
    for axes, image in zip(row, images, strict=False):
        axes.imshow(image.numpy(), cmap="gray", vmin=0, vmax=panel.maximum, interpolation="nearest")
    for axes, image in zip(row[len(images) :], images, strict=False):
        error = (image - panel.target).abs().numpy()
        axes.imshow(error, cmap="inferno", vmin=0, vmax=panel.maximum / amplification, interpolation="nearest")
    for axes in row:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    for axes, image in zip(row[:2], images, strict=False):
        maximum = panel.target.new_tensor([panel.maximum])
        score = float(structural_similarity(panel.target[None], image[None], maximum))
        axes.set_title(f"SSIM {score:.3f}", fontsize=8.5, color=INK)
