"""Figures of the inverse: the spectrum of the Jacobian, and the inverse error by depth."""

from __future__ import annotations

import math
from typing import Any

import torch

from invertible.reports.representation_style import (
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    RED,
    VIOLET,
    depth_axis,
    figure_style,
)
from invertible.reports.svg import new_figure
from invertible.representations import InverseErrors, JacobianSpectrum

# Values below this share of the largest are drawn here: beyond it lies rounding.
LOWEST = 1e-17


def spectrum_plot(found: JacobianSpectrum) -> Any:  # noqa: ANN401
    """Singular values on a log axis, and inverse errors beside eps x condition number, as a matplotlib figure."""
    measured = not bool(found.inverse_error.isnan().all())
    with figure_style():
        figure = new_figure(9.6 if measured else 6.4, 3.8)
        axes = figure.subplots(1, 1 + measured, width_ratios=(3, 2)[: 1 + measured], squeeze=False)[0]
        _values(axes[0], found)
        if measured:
            _errors(axes[1], found)
    return figure


def _values(axes: Any, found: JacobianSpectrum) -> None:  # noqa: ANN401
    known = found.values[found.values.isfinite().all(1)]
    count = found.values.shape[1]
    if len(known):
        shown = known.clamp(min=LOWEST * float(known.max()))
        for row in shown.tolist():
            axes.plot(range(1, count + 1), row, color=BLUE, alpha=0.25, linewidth=0.9)
        axes.plot(range(1, count + 1), shown.median(0).values, color=BLUE, linewidth=2.2, label="median of the samples")
        axes.legend(loc="lower left")
    axes.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.set(yscale="log", ylabel="singular value")
    what = "index" if found.method == "dense" else f"index, the {count // 2} largest and the {count // 2} smallest"
    axes.set_xlabel(what)
    lost = len(found.values) - len(known)
    title = f"Jacobian of {len(found.values)} samples, {found.features} features"
    axes.set_title(title + (f"; {lost} not finite" if lost else ""), color=RED if lost else INK)
    axes.grid(axis="y", linewidth=0.7)
    axes.tick_params(length=0)


def _errors(axes: Any, found: JacobianSpectrum) -> None:  # noqa: ANN401
    axes.set_yscale("log")
    order = found.condition_number.nan_to_num(nan=math.inf).argsort()
    rows = range(1, len(order) + 1)
    foretold, error = found.foretold[order], found.inverse_error[order]
    shown = torch.where(error.isfinite(), error.clamp(min=found.eps * 1e-3), math.nan)
    axes.plot(
        rows, foretold, "_", color=MUTED, ms=max(3, min(14, 160 / len(order))), mew=2, label="eps × condition number"
    )
    axes.plot(rows, shown, "o", color=ORANGE, ms=5, label="inverse error, measured")
    lost = [row for row, value in zip(rows, error.tolist(), strict=True) if not math.isfinite(value)]
    if lost:
        axes.plot(lost, [1.0] * len(lost), "x", color=RED, ms=7, mew=2, label="not finite")
    axes.set_xlabel("sample, by condition number")
    axes.set_xticks([])
    axes.set_title("relative error of x")
    axes.margins(x=0.08, y=0.3)
    axes.grid(axis="y", linewidth=0.7)
    axes.tick_params(length=0)
    axes.legend()


def inverse_error_plot(found: InverseErrors) -> Any:  # noqa: ANN401
    """Errors of the inverse by depth on a log axis, as a matplotlib figure; crosses at the top are not finite."""
    floor, top = found.eps * 1e-2, _top(found)
    curves = (
        ("own", "layer alone", GREEN, "^-"),
        ("there", "state, against float64", MUTED, "-"),
        ("way_back", "state, on the way back from the last layer", VIOLET, "s-"),
        ("to_input", "data, inverted from this depth", BLUE, "o-"),
    )
    with figure_style():
        figure = new_figure(7.8, 4.2)
        axes = figure.subplots()
        for name, label, colour, style in curves:
            points = [(point.depth, getattr(point, name)) for point in found.points]
            points = [(depth, errors.worst) for depth, errors in points if errors is not None]
            if not points:
                continue
            depths, worst = zip(*points, strict=True)
            shown = [top if math.isinf(value) else min(max(value, floor), top) for value in worst]
            axes.plot(depths, shown, style, color=colour, ms=3.5, linewidth=1.5, label=label)
            lost = [depth for depth, value in points if math.isinf(value)]
            axes.plot(lost, [top] * len(lost), "x", color=RED, ms=7, mew=2)
        axes.axhline(found.eps, color=GRID, linewidth=1.5, zorder=1)
        axes.text(1, found.eps, f"eps of {found.dtype}", color=MUTED, fontsize=8.5, va="bottom")
        axes.set(yscale="log", ylim=(floor / 2, top * 3), ylabel="relative error, worst sample")
        depth_axis(axes, [point.depth for point in found.points])
        axes.set_title(f"inverse error by depth, {found.samples} samples")
        axes.legend()
    return figure


def _top(found: InverseErrors) -> float:
    """A power of ten above all that is finite."""
    sets = [errors for p in found.points for errors in (p.there, p.own, p.to_input, p.way_back) if errors is not None]
    finite = [errors.worst for errors in sets if math.isfinite(errors.worst) and errors.worst > 0]
    return 10.0 ** min(3, math.ceil(math.log10(max([*finite, found.eps]))) + 1)
