"""An audit as a table for terminals, with rich or in plain text."""

import math
from collections.abc import Sequence
from textwrap import fill
from typing import Any

from invertible.errors import require
from invertible.stability.findings import findings, headline
from invertible.stability.records import FAILED, PASSED, REFUSED, AuditRecord, SetRecord

COLUMNS = ("set", "verdict", "lost", "median", "worst x", "worst z", "log-det", "float64")
LEGEND = (
    "worst x: of x → z → x, worst z: of z → x → z; inf: lost; float64: the worst samples again, with the same weights"
)
STYLES = {PASSED: "green", FAILED: "bold red", REFUSED: "yellow"}
WIDTH = 100


def audit_text(record: AuditRecord) -> str:
    """The verdict, the table of sets and the findings as plain text."""
    lines = [verdict(record), "", *_aligned([COLUMNS, *(row(each) for each in record.sets)])]
    lines.append(LEGEND)
    found = findings(record)
    if found:
        lines.append("")
        lines += [fill(f"- {each.text}", WIDTH, subsequent_indent="  ", break_on_hyphens=False) for each in found]
    return "\n".join(lines)


def audit_rich(record: AuditRecord) -> Any:  # noqa: ANN401
    """The same as an object that rich prints.

    Raises:
        MissingDependencyError: if rich is not installed.
    """
    table_module, console, text = (require(f"rich.{name}", "cli") for name in ("table", "console", "text"))
    table = table_module.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("set", "verdict") else "right", no_wrap=True)
    for each in record.sets:
        cells = [text.Text(cell) for cell in row(each)]
        cells[1].stylize(STYLES[each.status])
        table.add_row(*cells)
    banner = text.Text(verdict(record), style="bold green" if record.passed else "bold red")
    notes = [text.Text(f"- {each.text}", style="" if each.level == "failure" else "dim") for each in findings(record)]
    return console.Group(banner, table, text.Text(LEGEND, style="dim"), *notes)


def verdict(record: AuditRecord) -> str:
    """PASSED or FAILED, and why."""
    return f"{'PASSED' if record.passed else 'FAILED'}  {record.model['name']}: {headline(record)}"


def row(one: SetRecord) -> tuple[str, ...]:
    """The cells of one set, in the order of `COLUMNS`."""
    if one.data is None or one.latent is None:
        return (one.name, one.status, *["-"] * 6)
    mark = one.status if one.required or one.status != FAILED else f"({one.status})"
    return (
        one.name,
        mark,
        f"{one.non_finite}/{one.samples - one.refused}" if one.non_finite else "0",
        figure(one.data.median),
        figure(one.data.worst),
        figure(one.latent.worst),
        figure(one.log_det_worst),
        "-" if one.control is None else figure(one.control.worst),
    )


def figure(value: float) -> str:
    """A number in short: two digits, `inf` for a lost sample, `-` where nothing was measured."""
    if math.isnan(value):
        return "-"
    return "inf" if math.isinf(value) else "0" if value == 0 else f"{value:.1e}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in rows
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
