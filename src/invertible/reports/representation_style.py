"""Figures of the looks inside: one look for all, and as PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from invertible.errors import require

INK, MUTED, GRID = "#22252b", "#7a808a", "#e3e5e9"
BLUE, ORANGE, GREEN, RED, VIOLET = "#3b6fd6", "#e08a1e", "#2f9e77", "#d64550", "#8f63d2"
SETTINGS = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "legend.frameon": False,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """matplotlib's settings within the body.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    with require("matplotlib", "report").rc_context(SETTINGS):
        yield


def png(figure: Any) -> bytes:  # noqa: ANN401
    """The figure as a PNG file's content; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with figure_style():
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def depth_axis(axes: Any, depths: Sequence[int]) -> None:  # noqa: ANN401
    """Depth as the x-axis: whole numbers, with a light grid behind."""
    axes.set_xlabel("depth: number of layers passed")
    axes.xaxis.set_major_locator(require("matplotlib.ticker", "report").MaxNLocator(integer=True))
    axes.set_xlim(min(depths) - 0.02 * max(depths), max(depths) * 1.02)
    axes.grid(axis="y", linewidth=0.7)
    axes.tick_params(length=0)
