"""What the figures of the reproductions share: colours, sizes, PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from invertible.errors import require
from invertible.training.pictures import write_atomically

INK, MUTED, GRID = "#22252b", "#7a808a", "#e3e5e9"
# Told apart by those who do not see red or green; in this order where lines have no meaning of their own.
BLUE, ORANGE, GREEN, PURPLE, RED = "#3b6fd6", "#e08a1e", "#1a9a7a", "#8f63d2", "#d64550"
HUES = (BLUE, ORANGE, GREEN, PURPLE, RED, MUTED)
SETTINGS = {
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "invertible",
}


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings for these figures, within the body alone.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    with require("matplotlib", "report").rc_context(SETTINGS):
        yield


def new_figure(width: float, height: float) -> Any:  # noqa: ANN401
    """A figure of so many inches that belongs to no window."""
    return require("matplotlib.figure", "report").Figure(figsize=(width, height), layout="constrained")


def as_bytes(figure: Any, kind: str) -> bytes:  # noqa: ANN401
    """A figure as `"png"` or `"svg"`, the same bytes every time."""
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None}
    with style():
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def write_figure(figure: Any, path: Path) -> list[Path]:  # noqa: ANN401
    """Write `path` with the endings .png and .svg."""
    paths = [path.with_suffix(f".{kind}") for kind in ("png", "svg")]
    for each in paths:
        write_atomically(each, as_bytes(figure, each.suffix[1:]))
    return paths
