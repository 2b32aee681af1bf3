"""The figure of an attack: the error of the inverse, step by step."""

import math

from invertible.errors import require
from invertible.reports.plots import CEILING, error_floor
from invertible.reports.svg import FAIL, INK, MUTED, NOTE, PASS, inline_svg, new_figure, page_style
from invertible.stability.records import AuditRecord


def attack_plot(record: AuditRecord) -> str:
    """Median and worst error over the steps of the attack, as SVG; empty without an attack."""
    found = record.attack
    if found is None:
        return ""
    floor, top = error_floor(record), CEILING * 6
    held = max(found.worst) <= record.options.tolerance
    colour = PASS if held else FAIL if record.options.strict else NOTE
    with page_style():
        figure = new_figure(9.2, 2.6)
        axes = figure.subplots()
        # The first figure is that of the data themselves, the next that of the random start.
        for values, name, line, width in ((found.worst, "worst", colour, 2.2), (found.median, "median", INK, 1.4)):
            shown = [top if math.isinf(value) else min(max(value, floor * 1.5), CEILING) for value in values]
            axes.plot(range(len(shown)), shown, color=line, linewidth=width, label=name)
            lost = [index for index, value in enumerate(values) if math.isinf(value)][:1]
            axes.plot(lost, [top] * len(lost), marker="x", markersize=7, markeredgewidth=1.8, linestyle="", color=line)
        tolerance = record.options.tolerance
        axes.axhline(tolerance, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        label = f"tolerance {tolerance:g}"
        axes.text(len(found.worst) - 1, tolerance, label, color=MUTED, fontsize=8.5, va="bottom", ha="right")
        axes.set(yscale="log", ylim=(floor, CEILING * 30), ylabel="relative error")
        axes.set_xlabel("step of the attack; 0: the data, 1: a random point near them")
        axes.grid(axis="y", linewidth=0.6)
        axes.minorticks_off()
        axes.tick_params(length=0)
        axes.xaxis.set_major_locator(require("matplotlib.ticker", "report").MaxNLocator(integer=True))
        axes.margins(x=0.02)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), labelcolor=INK)
        return inline_svg(figure, "attack", "Error of the inverse over the steps of the attack")
