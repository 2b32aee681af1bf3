"""Outcomes as one HTML page that loads nothing from a network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from invertible.errors import require
from invertible.reproduce.figures import as_bytes
from invertible.reproduce.outcome import Outcome

TEMPLATE = "page.html.j2"


def page(outcomes: Sequence[Outcome]) -> str:
    """Claims, figures, tables and departures of every experiment, and at the head what holds.

    Raises:
        MissingDependencyError: if matplotlib or jinja2 is not installed.
    """
    return _template().render(outcomes=outcomes, embedded=_embedded)


def _embedded(figure: Any) -> str:  # noqa: ANN401
    return "data:image/png;base64," + base64.b64encode(as_bytes(figure, "png")).decode()


@cache
def _template() -> Any:  # noqa: ANN401
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(files("invertible.reproduce").joinpath(TEMPLATE).read_text(encoding="utf-8"))
