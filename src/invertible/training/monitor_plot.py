"""The error of an inverse over a training, as a picture."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invertible.errors import require
from invertible.training.inverse_check import InverseCheck
from invertible.training.pictures import write_atomically

INK, MUTED, GRID = "#22252b", "#7a808a", "#e3e5e9"
COLOURS = ("#3b6fd6", "#e08a1e", "#8f63d2", "#2f9e77")
RED = "#d64550"
MARKED = {"danger": RED, "rollback": RED, "stop": INK}
# Beyond an error, or a condition number, of this size no digit is left to lose.
CEILING, HIGHEST = 1e2, 1e16


def plot_inverse(
    checks: Sequence[InverseCheck], events: Sequence[tuple[int, str]], tolerance: float, path: Path
) -> None:
    """Draw worst errors on a log axis, digits to trust and condition numbers against the step, and what was done.

    Lost samples are crosses at the top, never left out. What is above the tolerance is shaded.

    Args:
        checks: in the order in which they were made.
        events: (step, kind).
        tolerance: drawn as a line.
        path: of the PNG, which is written under a temporary name and renamed.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    settings = {"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GRID}
    conditions = any(not math.isnan(check.condition) for check in checks)
    with require("matplotlib", "train").rc_context(settings):
        figure = require("matplotlib.figure", "train").Figure(figsize=(8, 5.8 if conditions else 4.6))
        figure.set_layout_engine("constrained")
        heights = (3, 1.4, 1.4) if conditions else (3, 1.4)
        errors, digits, *numbers = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        for name, colour in zip(dict.fromkeys(check.name for check in checks), COLOURS, strict=False):
            own = [check for check in checks if check.name == name]
            _errors(errors, own, colour)
            digits.plot([check.step for check in own], [check.digits for check in own], color=colour, linewidth=1.6)
            for axes in numbers:
                _conditions(axes, own, colour)
        errors.axhspan(tolerance, CEILING * 10, color=RED, alpha=0.06, linewidth=0)
        label = f"tolerance {tolerance:.1e}"
        errors.axhline(tolerance, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label=label)
        errors.set(yscale="log", ylim=(_floor(checks), CEILING * 10))
        digits.set_ylim(bottom=0)
        titles = ("worst relative error of a round trip", "digits to trust, worst sample", "largest condition number")
        for axes, title in zip((errors, digits, *numbers), titles, strict=False):
            _dress(axes, title, events)
        (numbers or [digits])[-1].set_xlabel("step", color=INK)
        figure.legend(*errors.get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def _errors(axes: Any, checks: Sequence[InverseCheck], colour: str) -> None:  # noqa: ANN401
    known = [check for check in checks if not math.isnan(check.worst)]
    shown = [min(max(check.worst, 1e-20), CEILING) for check in known]
    axes.plot([check.step for check in known], shown, color=colour, linewidth=1.6, label=checks[0].name)
    lost = [check.step for check in known if check.lost or math.isinf(check.worst)]
    if lost:
        label = f"{checks[0].name}: samples lost"
        axes.plot(lost, [CEILING * 3] * len(lost), "x", color=colour, markersize=5, markeredgewidth=1.6, label=label)


def _conditions(axes: Any, checks: Sequence[InverseCheck], colour: str) -> None:  # noqa: ANN401
    known = [check for check in checks if not math.isnan(check.condition)]
    shown = [min(check.condition, HIGHEST) for check in known]
    axes.plot([check.step for check in known], shown, color=colour, linewidth=1.6)
    axes.set_yscale("log")


def _dress(axes: Any, title: str, events: Sequence[tuple[int, str]]) -> None:  # noqa: ANN401
    for kind in dict.fromkeys(kind for _, kind in events):
        steps = [step for step, other in events if other == kind]
        for index, step in enumerate(steps):
            label = f"{kind} ({len(steps)})" if not index else None
            axes.axvline(step, color=MARKED.get(kind, INK), linewidth=1, alpha=0.7, label=label, zorder=1)
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.tick_params(length=0, colors=MUTED)
    axes.minorticks_off()
    axes.margins(x=0.02)


def _floor(checks: Sequence[InverseCheck]) -> float:
    positive = [check.worst for check in checks if 0 < check.worst < math.inf]
    return 10.0 ** math.floor(math.log10(min(positive, default=1e-7)))
