"""Figures as SVG inside a page: its colours, its fonts, readable in light, in dark and on paper."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

from invertible.errors import require

# Colours that stand for the page's own; matplotlib wants numbers, the page wants names.
INK, MUTED, GRID, PASS, FAIL, NOTE, SURFACE = (f"#0b0b0{index}" for index in range(1, 8))
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    PASS: "--pass",
    FAIL: "--fail",
    NOTE: "--note",
    SURFACE: "--surface",
}
SETTINGS = {
    "svg.fonttype": "none",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "legend.frameon": False,
}


@contextmanager
def page_style() -> Iterator[None]:
    """matplotlib's settings for figures of a page, within the body alone.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    with require("matplotlib", "report").rc_context(SETTINGS):
        yield


def new_figure(width: float, height: float) -> Any:  # noqa: ANN401
    """A figure of so many inches that belongs to no window."""
    return require("matplotlib.figure", "report").Figure(figsize=(width, height), layout="constrained")


def inline_svg(figure: Any, name: str, description: str) -> str:  # noqa: ANN401
    """A figure as an SVG element that scales with the page.

    Args:
        figure: a matplotlib figure, drawn in the colours of this module within `page_style`.
        name: unique on the page: it sets its identifiers apart.
        description: for readers who do not see it.
    """
    buffer = StringIO()
    with require("matplotlib", "report").rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="[^"]+"', text)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{box.group() if box else ""} role="img" aria-label="{label}">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1).strip()
