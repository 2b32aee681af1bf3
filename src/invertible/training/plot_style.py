"""What the figures of a run share: colours, curves over epochs, files."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invertible.errors import require
from invertible.training.pictures import write_atomically

INK, MUTED, GRID = "#22252b", "#7a808a", "#e3e5e9"
TRAIN, VALIDATION = "#3b6fd6", "#e08a1e"
SETTINGS = {"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GRID}


def means(history: Sequence[dict[str, str]], name: str) -> tuple[list[float], list[float]]:
    """Epochs of the validations, and the mean of a column since the one before."""
    epochs, found, since = [], [], []
    for row in history:
        if row.get(name):
            since.append(float(row[name]))
        if row["validation"] and since:
            epochs.append(float(row["epoch"]))
            found.append(sum(since) / len(since))
            since = []
    return epochs, found


def mark_best(axes: Any, history: Sequence[dict[str, str]], step: int, label: str | None = None) -> None:  # noqa: ANN401
    """Draw a line at the epoch of the model that was saved."""
    best = [float(row["epoch"]) for row in history if row["validation"] and int(row["step"]) == step]
    for epoch in best[:1]:
        axes.axvline(epoch, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label=label, zorder=1)


def finish(axes: Any, title: str, ticks: Sequence[float]) -> None:  # noqa: ANN401
    """Give curves over epochs their title, axis and grid.

    Args:
        axes: of a figure.
        title: what is drawn, with its unit.
        ticks: epochs of the validations.
    """
    if len(ticks) == 1:
        # A curve of one point has no length.
        for line in axes.lines:
            line.set_marker("o" if len(line.get_xdata()) == 1 else "")
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    axes.set_xlabel("epoch", color=INK)
    axes.xaxis.set_major_locator(require("matplotlib.ticker", "train").MaxNLocator(6, integer=len(ticks) > 2))
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.tick_params(length=0, colors=MUTED)
    axes.margins(x=0.02)


def log_or_linear(axes: Any) -> None:  # noqa: ANN401
    """A logarithmic axis for curves that are positive and cover decades, else one from 0."""
    values = [value for line in axes.lines[:2] for value in line.get_ydata()]
    positive = [value for value in values if value > 0]
    # Curves that reach 0, as training errors do, have no place on a log axis; others cover decades.
    if positive and min(positive) == min(values) and max(values) > 10 * min(values):
        ticker = require("matplotlib.ticker", "train")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.minorticks_off()
    else:
        axes.set_ylim(bottom=0)


def new_figure(width: float, height: float) -> Any:  # noqa: ANN401
    """A figure of a size in inches, with no window."""
    return require("matplotlib.figure", "train").Figure(figsize=(width, height), layout="constrained")


def write_figure(figure: Any, path: Path) -> None:  # noqa: ANN401
    """Write a PNG under a temporary name that is then renamed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())
