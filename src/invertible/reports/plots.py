"""The figures of an audit: errors by set, errors block by block, points of a plane."""

import math
from typing import Any

import torch

from invertible.errors import require
from invertible.reports.svg import FAIL, GRID, INK, MUTED, NOTE, PASS, SURFACE, inline_svg, new_figure, page_style
from invertible.stability.records import FAILED, IN_DISTRIBUTION, LATENT, AuditRecord, SetRecord

# Errors above this are drawn at the end of the axis: beyond it no digit is left to lose.
CEILING = 1e4
PROFILES, PANELS = 5, 6
# Hues of lines that stand side by side; told apart in light and in dark, and by those who do not see red or green.
HUES = ("#d64550", "#e08a1e", "#8f63d2", "#3b8fd6")
EPS = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-23, "float64": 2**-52}


def errors_by_set(record: AuditRecord) -> str:
    """One row a set: the range of its errors on a log axis, and beside it the share of lost samples, as SVG."""
    sets = record.sets
    floor = error_floor(record)
    with page_style():
        figure = new_figure(9.2, 0.9 + 0.3 * len(sets))
        axes, lost = figure.subplots(1, 2, sharey=True, width_ratios=(5, 1))
        for position, one in enumerate(sets):
            _range(axes, position, one, floor)
            _lost_bar(lost, position, one)
        _thresholds(axes, record, len(sets))
        axes.set(xscale="log", xlim=(floor, CEILING * 3), ylim=(len(sets) - 0.4, -1.1))
        axes.set_yticks(range(len(sets)), [one.name for one in sets], color=INK)
        axes.set_xlabel("relative error of a round trip; thin line: all finite, thick: the middle half, dot: worst")
        axes.grid(axis="x", linewidth=0.6)
        axes.tick_params(length=0)
        axes.minorticks_off()
        lost.set(xlim=(0, 1), xlabel="samples lost")
        lost.set_xticks((0, 0.5, 1), ("0", "50 %", "100 %"))
        lost.tick_params(length=0)
        lost.spines.left.set_visible(False)
        return inline_svg(figure, "errors", "Relative round-trip errors of every set on a logarithmic axis")


def block_profile(record: AuditRecord) -> str:
    """The error on the way back, block by block, of the sets that fail most and of the test data, as SVG.

    Empty if the model is one block.
    """
    chosen = _profiles(record)
    if not chosen:
        return ""
    floor = error_floor(record)
    with page_style():
        figure = new_figure(9.2, 3.4)
        axes = figure.subplots()
        for one, colour in zip(chosen, _hues(chosen), strict=True):
            _profile(axes, one, colour, floor)
        axes.set(yscale="log", ylim=(floor, CEILING * 30))
        axes.set_xlabel("block, from data (left) to latents (right); data come back from right to left")
        axes.set_ylabel("largest error at its input, on the way back")
        axes.grid(axis="y", linewidth=0.6)
        axes.minorticks_off()
        axes.tick_params(length=0)
        axes.xaxis.set_major_locator(require("matplotlib.ticker", "report").MaxNLocator(integer=True))
        axes.margins(x=0.02)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), labelcolor=INK)
        return inline_svg(figure, "profile", "Error on the way back by block")


def plane(record: AuditRecord) -> str:
    """Points of a plane and where they come back, for the sets that fail most, as SVG; empty for other data."""
    chosen = [one for one in _by_need(record) if one.examples is not None and one.examples.start.shape[1:] == (2,)]
    if not chosen:
        return ""
    with page_style():
        columns = min(3, len(chosen))
        rows = math.ceil(min(PANELS, len(chosen)) / columns)
        figure = new_figure(9.2, 2.9 * rows)
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, one in zip(panels, chosen, strict=False):
            _scatter(axes, one, record.options.tolerance)
        for axes in panels[len(chosen) :]:
            axes.set_axis_off()
        return inline_svg(figure, "plane", "Points and their reconstructions")


def error_floor(record: AuditRecord) -> float:
    """The lower end of axes of errors: a tenth of the eps of the dtype, or less."""
    eps = EPS.get(record.model.get("dtype", "float32"), 2**-23)
    return 10 ** (math.floor(math.log10(eps)) - 1)


def _colour(one: SetRecord) -> str:
    return PASS if one.status != FAILED else FAIL if one.required else NOTE


def _range(axes: Any, position: int, one: SetRecord, floor: float) -> None:  # noqa: ANN401
    side = one.latent if one.kind == LATENT else one.data
    if side is None:
        note = "refused: outside the model's domain"
        axes.text(floor * 1.5, position, note, va="center", color=MUTED, style="italic")
        return
    finite = torch.tensor([error for error in side.errors if math.isfinite(error)], dtype=torch.float64)
    if not len(finite):
        axes.text(CEILING * 2, position, "no sample comes back ", va="center", ha="right", color=_colour(one))
        return
    finite = finite.clamp(floor * 1.5, CEILING)
    low, q1, q2, q3, high = finite.quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64)).tolist()
    colour = _colour(one)
    axes.plot((low, high), (position, position), color=colour, linewidth=1.2, solid_capstyle="butt")
    axes.plot((q1, q3), (position, position), color=colour, linewidth=6, solid_capstyle="round", alpha=0.55)
    axes.plot(q2, position, marker="|", markersize=9, color=INK, markeredgewidth=1.4)
    axes.plot(high, position, marker="o", markersize=4.5, color=colour)
    if side.non_finite:
        axes.plot(CEILING * 2, position, marker="x", markersize=6, markeredgewidth=1.8, color=colour, clip_on=False)


def _lost_bar(axes: Any, position: int, one: SetRecord) -> None:  # noqa: ANN401
    count = one.samples - one.refused
    if not count:
        return
    share = one.non_finite / count
    axes.barh(position, 1, height=0.5, color=GRID, alpha=0.45)
    axes.barh(position, share, height=0.5, color=_colour(one))
    if one.non_finite:
        inside = share > 0.45
        axes.text(
            0.03 if inside else share + 0.04,
            position,
            f"{one.non_finite} of {count}",
            va="center",
            fontsize=8,
            color=SURFACE if inside else INK,
        )


def _thresholds(axes: Any, record: AuditRecord, count: int) -> None:  # noqa: ANN401
    eps = EPS.get(record.model.get("dtype", "float32"), 2**-23)
    for value, label in ((eps, "eps"), (record.options.tolerance, f"tolerance {record.options.tolerance:g}")):
        axes.plot((value, value), (-0.5, count - 0.4), color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.text(value, -0.6, label, ha="center", va="bottom", fontsize=8.5, color=MUTED)


def _by_need(record: AuditRecord) -> list[SetRecord]:
    """Sets in the order in which they deserve a look: failures by their loss, then the model's own data."""

    def need(one: SetRecord) -> tuple[bool, int, float]:
        return one.status != FAILED, -one.non_finite, -one.worst if not math.isnan(one.worst) else 0.0

    failed = sorted((one for one in record.sets if one.status == FAILED), key=need)
    return failed + [one for one in record.sets if one.status != FAILED]


def _profiles(record: AuditRecord) -> list[SetRecord]:
    measured = [one for one in _by_need(record) if len(one.blocks) > 1 and one.kind != LATENT]
    measured = [one for one in measured if any(not math.isnan(block.back_worst) for block in one.blocks)]
    reference = [one for one in measured if one.name == "test"]
    return [*reference, *(one for one in measured if one.kind != IN_DISTRIBUTION)][:PROFILES]


def _hues(chosen: list[SetRecord]) -> list[str]:
    hues = iter(HUES)
    return [INK if one.name == "test" else next(hues, MUTED) for one in chosen]


def _profile(axes: Any, one: SetRecord, colour: str, floor: float) -> None:  # noqa: ANN401
    values = [block.back_worst for block in one.blocks]
    top = CEILING * 6
    line = [top if math.isinf(value) else min(max(value, floor * 1.5), CEILING) for value in values]
    width = 2.4 if one.name == "test" else 1.6
    axes.plot(range(len(line)), line, color=colour, linewidth=width, label=one.name)
    lost = [index for index, value in enumerate(values) if math.isinf(value)]
    axes.plot(lost, [top] * len(lost), marker="x", markersize=5, markeredgewidth=1.6, linestyle="", color=colour)


def _scatter(axes: Any, one: SetRecord, tolerance: float) -> None:  # noqa: ANN401
    examples = one.examples
    if examples is None or one.data is None:
        return
    start, back = examples.start.double(), examples.back.double()
    lost = ~back.isfinite().all(1)
    size = start.norm(dim=1)
    moved = ~lost & ((back - start).norm(dim=1) > tolerance * size.clamp(min=float(size.median())))
    low, high = start[start.isfinite().all(1)].aminmax(dim=0)
    margin = 0.25 * (high - low).clamp(min=1e-6)
    axes.plot(*start.T.tolist(), marker="o", markersize=2.2, linestyle="", color=MUTED, alpha=0.6)
    for a, b in zip(start[moved].tolist(), back[moved].tolist(), strict=True):
        axes.plot((a[0], b[0]), (a[1], b[1]), color=FAIL, linewidth=0.8)
    axes.plot(*start[lost].T.tolist(), marker="x", markersize=5, markeredgewidth=1.4, linestyle="", color=FAIL)
    axes.set(xlim=(float(low[0] - margin[0]), float(high[0] + margin[0])))
    axes.set(ylim=(float(low[1] - margin[1]), float(high[1] + margin[1])))
    axes.set_title(f"{one.name}: {int(moved.sum())} moved, {int(lost.sum())} lost", loc="left", color=_colour(one))
    axes.tick_params(length=0, labelsize=8)
