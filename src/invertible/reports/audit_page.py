"""An audit as one HTML page that loads nothing from a network."""

import json
import math
import re
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any

from invertible.errors import require
from invertible.reports.attack_plot import attack_plot
from invertible.reports.audit_sections import figure, quantity, seconds
from invertible.reports.audit_table import section_rows
from invertible.reports.pictures import picture_strips
from invertible.reports.plots import block_profile, errors_by_set, plane
from invertible.stability.findings import Finding, findings, headline
from invertible.stability.records import FAILED, AuditRecord, BlockSummary, SetRecord
from invertible.stability.summaries import BlockBound

TEMPLATE = "audit_page.html.j2"
BLOCKS = 6
NUMBER = re.compile(r"\d(\.\d+)?e[+-]\d+")


def audit_page(record: AuditRecord) -> str:
    """The audit as one page: verdict, findings, figures, tables, pictures, how to read them, options and versions.

    Style, figures and pictures lie inside. Its only script sorts tables; without it they stay as they are. It reads
    well in light and in dark, on a phone and on paper.

    Raises:
        MissingDependencyError: if matplotlib or jinja2 is not installed.
    """
    blamed = _blamed_set(record)
    return _template().render(
        record=record,
        headline=headline(record),
        groups=_by_remedy(record),
        sections=section_rows(record),
        attack=attack_plot(record),
        bounds=_loosest(record),
        errors=errors_by_set(record),
        profile=block_profile(record),
        plane=plane(record),
        strips=picture_strips(record),
        blamed=blamed,
        blocks=[] if blamed is None else _worst_blocks(blamed),
        model=_model(record),
        options=asdict(record.options) | asdict(record.budget),
        config=None if record.model.get("config") is None else json.dumps(record.model["config"], indent=1),
    )


@cache
def _template() -> Any:  # noqa: ANN401
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["figure"] = figure
    environment.filters["quantity"] = quantity
    # What a table sorts by: what was not measured comes last in either order.
    environment.filters["key"] = lambda value: "" if value != value else repr(float(value))
    environment.filters["times"] = lambda value: "-" if math.isnan(value) else f"× {figure(value)}"
    # A path may wrap behind a full stop, and nowhere inside a name.
    markup = require("markupsafe", "report").Markup
    environment.filters["breakable"] = lambda path: markup(".<wbr>").join(path.split("."))
    # Numbers stay whole at the end of a line.
    whole = r'<span class="figure">\g<0></span>'
    environment.filters["figures"] = lambda text: markup(NUMBER.sub(whole, str(markup.escape(text))))
    text = files("invertible.reports").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text)


def _by_remedy(record: AuditRecord) -> list[tuple[str, list[Finding]]]:
    """Findings that call for the same thing together; those that call for nothing last."""
    found: dict[str, list[Finding]] = {}
    for each in findings(record):
        found.setdefault(each.remedy, []).append(each)
    return sorted(found.items(), key=lambda group: not group[0])


def _loosest(record: AuditRecord) -> list[BlockBound]:
    """The blocks with the largest bounds of their inverses."""
    if record.bounds is None:
        return []
    return sorted(record.bounds.blocks, key=lambda block: (-block.inverse, -block.forward))[:BLOCKS]


def _model(record: AuditRecord) -> list[tuple[str, str]]:
    model = record.model
    shape = " × ".join(map(str, model.get("data_shape", [])))
    return [
        ("data", shape),
        ("parameters", f"{model.get('parameters', 0):,}"),
        ("dtype", str(model.get("dtype", "unknown")) + (", products in TF32" if model.get("tf32") else "")),
        ("device", str(model.get("device", "unknown"))),
        ("tolerance", f"{record.options.tolerance:g}"),
        ("effort", record.options.effort),
        ("time", seconds(sum(each.seconds for each in record.sections))),
        ("audited", record.created.replace("T", " ").replace("+00:00", " UTC")),
    ]


def _blamed_set(record: AuditRecord) -> SetRecord | None:
    """The set whose blocks deserve a table: the failure that loses most, else the one with the largest error."""
    measured = [one for one in record.sets if one.blocks and one.worst_block is not None]
    if not measured or len(measured[0].blocks) < 2:
        return None
    return max(measured, key=lambda one: (one.status == FAILED, -one.non_finite if one.non_finite else 0, one.worst))


def _worst_blocks(one: SetRecord) -> list[BlockSummary]:
    reached = [block for block in one.blocks if not math.isnan(block.amplification)]
    return sorted(reached, key=lambda block: -block.amplification)[:BLOCKS]
