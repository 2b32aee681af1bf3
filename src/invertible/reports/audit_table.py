"""An audit as a table for terminals, with rich or in plain text."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from invertible.errors import require
from invertible.reports.audit_sections import TITLES, figure, seconds, section_line
from invertible.stability.findings import findings, headline, remedies
from invertible.stability.records import FAILED, PASSED, REFUSED, AuditRecord, SetRecord

COLUMNS = ("set", "verdict", "lost", "median", "worst x", "worst z", "log-det", "float64")
LEGEND = (
    "worst x: of x → z → x, worst z: of z → x → z; inf: lost; float64: the worst samples again, with the same weights"
)
STYLES = {PASSED: "green", FAILED: "bold red", REFUSED: "yellow"}
WIDTH, NAME = 100, 18


def audit_text(record: AuditRecord) -> str:
    """The verdict, the table of sets and the findings as plain text."""
    lines = [verdict(record), "", *_aligned([COLUMNS, *(row(each) for each in record.sets)])]
    lines += [LEGEND, ""]
    for name, text, time in section_rows(record):
        lines.append(_filled(f"{name:{NAME}}{time:>7}  {text}", " " * (NAME + 9)))
    for title, items in _lists(record):
        lines += ["", title, *(_filled(f"- {text}", "  ") for text in items)]
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
    sections = table_module.Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for style, justify in (("bold", "left"), ("dim", "right"), ("", "left")):
        sections.add_column(style=style, justify=justify, no_wrap=style != "")
    for name, found, time in section_rows(record):
        sections.add_row(text.Text(name), text.Text(time), text.Text(found))
    parts = [banner, table, text.Text(LEGEND, style="dim"), text.Text(""), sections]
    for title, items in _lists(record):
        grid = table_module.Table.grid(padding=(0, 1, 0, 0))
        for each in items:
            grid.add_row(text.Text("-"), text.Text(each))
        parts += [text.Text(f"\n{title}", style="bold"), grid]
    return console.Group(*parts)


def section_rows(record: AuditRecord) -> list[tuple[str, str, str]]:
    """A row a section: its name, what it found, how long it took."""
    return [(TITLES[each.name], section_line(record, each), seconds(each.seconds)) for each in record.sections]


def _lists(record: AuditRecord) -> list[tuple[str, list[str]]]:
    """What was found, and what to do about it."""
    lists = [("What was found", [each.text for each in findings(record)])]
    lists.append(("What to do", [f"{text} ({_names(subjects)})" for text, subjects in remedies(record)]))
    return [(title, items) for title, items in lists if items]


def _names(subjects: Sequence[str]) -> str:
    return ", ".join(subjects) if len(subjects) <= 4 else f"{', '.join(subjects[:3])} and {len(subjects) - 3} more"


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


def _filled(text: str, indent: str) -> str:
    return fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


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
