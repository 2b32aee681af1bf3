"""Figures by depth: separation, contraction, dimension."""

from __future__ import annotations

from typing import Any

from invertible.errors import require
from invertible.reports.representation_style import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    VIOLET,
    depth_axis,
    figure_style,
)
from invertible.reports.svg import new_figure
from invertible.representations import Contraction, Dimension, Separation

POOLED = {"mean": "features averaged over positions", "flatten": "all numbers of a state as features"}


def separation_plot(found: Separation) -> Any:  # noqa: ANN401
    """Accuracy of the support vector machine and of the nearest neighbour by depth, as a matplotlib figure."""
    depths = [point.depth for point in found.points]
    with figure_style():
        figure = new_figure(7.2, 3.8)
        axes = figure.subplots()
        axes.plot(depths, [100 * p.svm for p in found.points], "o-", color=BLUE, ms=4, label="linear SVM")
        axes.plot(depths, [100 * p.nearest for p in found.points], "s-", color=ORANGE, ms=4, label="nearest neighbour")
        depth_axis(axes, depths)
        axes.set_ylabel("accuracy, %")
        axes.set_ylim(top=101)
        axes.set_title(f"separation by depth, {POOLED[found.pooling]}")
        axes.legend(loc="lower right")
    return figure


def contraction_plot(found: Contraction) -> Any:  # noqa: ANN401
    """Distances within over those between classes, and ratios to the input's distances, as a matplotlib figure."""
    depths = [point.depth for point in found.points]
    with figure_style():
        figure = new_figure(9.6, 3.8)
        left, right = figure.subplots(1, 2)
        left.plot(depths, [p.within_to_between for p in found.points], "o-", color=GREEN, ms=4)
        left.set_ylim(bottom=0)
        left.set_title("mean distance within classes over that between them")
        kinds = (("between", "pairs of two classes", BLUE), ("within", "pairs of one class", ORANGE))
        for name, label, colour in (*kinds, ("local", "small changes", VIOLET)):
            spreads = [getattr(point, name) for point in found.points]
            right.plot(depths, [each.median for each in spreads], "o-", color=colour, ms=3, label=label)
            low, high = [each.smallest for each in spreads], [each.largest for each in spreads]
            right.fill_between(depths, low, high, color=colour, alpha=0.10, linewidth=0)
        right.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        right.set(yscale="log")
        right.yaxis.set_major_formatter(require("matplotlib.ticker", "report").FormatStrFormatter("%g"))
        right.set_title("distances over those of the input: median, range")
        right.legend(loc="upper left")
        for axes in (left, right):
            depth_axis(axes, depths)
    return figure


def dimension_plot(found: Dimension) -> Any:  # noqa: ANN401
    """Principal components by depth, and accuracies on the first of them, as a matplotlib figure."""
    depths = [point.depth for point in found.points]
    with figure_style():
        figure = new_figure(9.6, 3.8)
        left, right = figure.subplots(1, 2)
        for index, (share, colour) in enumerate((("90 %", BLUE), ("95 %", VIOLET), ("99 %", ORANGE))):
            counts = [point.components[index] for point in found.points]
            left.plot(depths, counts, "o-", color=colour, ms=4, label=f"{share} of the variance")
        depth_axis(left, depths)
        left.set_ylim(bottom=0)
        left.set_title("principal components that explain")
        left.legend()
        counts = [one.components for one in found.accuracies]
        right.plot(counts, [100 * one.svm for one in found.accuracies], "o-", color=BLUE, ms=4, label="linear SVM")
        nearest = [100 * one.nearest for one in found.accuracies]
        right.plot(counts, nearest, "s-", color=ORANGE, ms=4, label="nearest neighbour")
        right.set(xscale="log", xlabel="first components of the last features", ylabel="accuracy, %")
        right.xaxis.set_major_formatter(require("matplotlib.ticker", "report").FormatStrFormatter("%g"))
        right.set_ylim(top=101)
        right.grid(axis="y", linewidth=0.7)
        right.tick_params(length=0)
        right.set_title("accuracy by number of components")
        right.legend(loc="lower right")
    return figure
